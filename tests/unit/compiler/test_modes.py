"""Modes of single namespaces, what is answered instead of compiled, and addresses of two families."""

from __future__ import annotations

import msgspec
from envoy.config.listener.v3.listener_pb2 import Listener

from services.compiler.core.compiler import Compiler
from services.compiler.core.offline import compile_events
from services.compiler.mesh_state import MeshSettings
from shared.projected_objects import (
    ANNOTATION_CALLS,
    ANNOTATION_PERMISSIVE,
    EndpointSlice,
    Meta,
    SliceEndpoint,
    SlicePort,
    TargetRef,
)
from shared.records.events import DELETED, Event
from tests.unit.compiler import objects
from tests.unit.compiler.test_views import told, without_policy

OUTSIDE = [
    objects.namespace("far"),
    objects.pod("far", "far-0", account="far", ip="10.244.5.1", labels={"app": "far"}),
    objects.service("far", "far", ip="10.96.5.1"),
    objects.slices("far", "far", {"far-0": "10.244.5.1"}),
]


def test_one_namespace_is_permissive_in_a_mesh_that_is_not() -> None:
    """What it offers can be called by every member, and nothing else can."""
    store = objects.namespace("store", annotations={ANNOTATION_PERMISSIVE: "true"})
    found = told("buy/thief-0", *OUTSIDE, store, mesh=without_policy())
    assert found.calls() == {f"outbound|store/{name}|80" for name in ("store", "store-v1", "store-v2")} | {
        "outbound|store/db|5432"
    }
    assert "permissive" in told("store/v1-0", store, mesh=without_policy()).rules(8080).policies
    assert told("far/far-0", *OUTSIDE, store, mesh=without_policy()).rules(8080).policies == {}


def test_one_namespace_asks_for_traffic_targets_in_a_permissive_mesh() -> None:
    store = objects.namespace("store", annotations={ANNOTATION_PERMISSIVE: " False"})
    config = objects.mesh_config(permissive=True)
    found = told("buy/thief-0", *OUTSIDE, store, config, mesh=without_policy())
    assert found.calls() == {"outbound|far/far|80"}
    granted = told("buy/thief-0", *OUTSIDE, store, config)
    assert granted.calls() == {"outbound|far/far|80", "outbound|store/store|80", "outbound|store/store-v1|80"}
    assert set(told("store/v1-0", store, config).rules(8080).policies) == {"store/buyer-v1", "store/thief-v1"}


def test_an_annotation_that_is_neither_true_nor_false_denies_and_is_named() -> None:
    store = objects.namespace("store", annotations={ANNOTATION_PERMISSIVE: "ture"})
    found = told("buy/thief-0", store, objects.mesh_config(permissive=True), mesh=without_policy())
    assert found.calls() == set()
    assert [(one.key.kind, one.code) for one in found.snapshot.quarantine] == [("Namespace", "mesh/permissive")]


def test_in_permissive_mode_a_namespace_that_says_whom_it_calls_is_told_no_more() -> None:
    caller = objects.namespace("buy", annotations={ANNOTATION_CALLS: "far , nowhere"})
    config = objects.mesh_config(permissive=True)
    assert told("buy/thief-0", *OUTSIDE, caller, config, mesh=without_policy()).calls() == {"outbound|far/far|80"}
    assert told("buy/thief-0", *OUTSIDE, caller, config).calls() == {"outbound|far/far|80"}


def test_a_target_tells_nothing_to_a_namespace_that_says_that_it_calls_others() -> None:
    """A traffic target is written by its destination: a namespace has a say in what its own sidecars hold."""
    unasked = told("buy/buyer-0", objects.namespace("buy", annotations={ANNOTATION_CALLS: "far"}))
    assert unasked.calls() == set()
    problems = [(one.key.name, one.code) for one in unasked.snapshot.quarantine]
    assert problems == [(name, "smi/source-calls") for name in ("buyer-v1", "buyer-v2", "thief-v1")]
    assert "whose annotation meshlog.io/calls does not name store" in unasked.snapshot.quarantine[0].sentence
    asked = told("buy/buyer-0", objects.namespace("buy", annotations={ANNOTATION_CALLS: "far, store"}))
    assert asked.calls() == told("buy/buyer-0").calls() != set()
    assert asked.snapshot.quarantine == []


def test_a_namespace_that_says_whom_it_calls_still_calls_itself() -> None:
    found = told("store/v1-0", objects.namespace("store", annotations={ANNOTATION_CALLS: ""}))
    assert found.calls() == {"outbound|store/db|5432"}


def test_accounts_that_may_call_the_same_share_one_listener() -> None:
    mesh = [*without_policy(), *OUTSIDE, objects.mesh_config(permissive=True)]
    snapshot = compile_events(mesh)
    assert len(snapshot.views) == 3, "no port, a port of requests, a port of bytes"
    assert len([key for key in snapshot.resources if key[1] == "outbound"]) == 1


def test_a_udp_route_is_answered_and_changes_nothing() -> None:
    route = objects.policy(
        "UDPRoute", "store", "dns", {"matches": {"ports": [53]}}, api_version=objects.SPECS, created=""
    )
    target = objects.target(
        "store", "thief-v1", destination="store-v1", sources=[("buy", "thief")], rules=[("UDPRoute", "dns", [])]
    )
    found = told("buy/thief-0", route, target)
    assert found.calls() == set()
    assert sorted((one.key.kind, one.code) for one in found.snapshot.quarantine) == [
        ("TrafficTarget", "smi/udp"),
        ("UDPRoute", "smi/udp"),
    ]


def test_an_external_name_is_answered() -> None:
    renamed = objects.service("store", "cdn", type="ExternalName", external_name="cdn.example.com", ip="", selector={})
    found = told("buy/thief-0", renamed).snapshot.quarantine
    assert [(one.key.name, one.code) for one in found] == [("cdn", "service/external-name")]
    assert "cdn.example.com" in found[0].sentence
    assert told("buy/thief-0", renamed, objects.service("store", "cdn", ip="10.96.1.8")).snapshot.quarantine == []


def dual_stack() -> list[Event]:
    six = EndpointSlice(
        Meta(name="store-v1-six", namespace="store", labels={"kubernetes.io/service-name": "store-v1"}),
        "IPv6",
        [SliceEndpoint(addresses=["fd00::21"], target_ref=TargetRef(kind="Pod", name="v1-0", uid="Pod-store-v1-0"))],
        [SlicePort(port=8080)],
    )
    labels = {"app": "store", "version": "v1"}
    return [
        objects.pod(
            "store", "v1-0", account="store-v1", ip="10.244.2.1", ips=["10.244.2.1", "fd00::21"], labels=labels
        ),
        objects.service(
            "store", "store-v1", ip="10.96.1.2", cluster_ips=["10.96.1.2", "fd00:96::2"], selector={"version": "v1"}
        ),
        objects.event("EndpointSlice", "store", "store-v1-six", six),
    ]


def test_dual_stack_is_known_by_both_addresses_and_has_one_endpoint() -> None:
    found = told("buy/buyer-0", *dual_stack())
    ranges = found.chains("outbound")["outbound|store/store-v1|80"].filter_chain_match.prefix_ranges
    assert [(part.address_prefix, part.prefix_len.value) for part in ranges] == [("10.96.1.2", 32), ("fd00:96::2", 128)]
    assert found.endpoints("outbound|store/store-v1|80") == ["10.244.2.1"]
    assert found.get(Listener, "outbound").address.socket_address.ipv4_compat is False


def test_a_pod_of_two_families_listens_on_both() -> None:
    for listener in ("inbound", "outbound"):
        bound = told("store/v1-0", *dual_stack()).get(Listener, listener).address.socket_address
        assert (bound.address, bound.ipv4_compat) == ("::", True)


def test_a_service_whose_first_family_is_ipv6_is_called_by_it() -> None:
    service = objects.service("store", "store-v1", ip="fd00:96::2", cluster_ips=["fd00:96::2"])
    assert told("buy/buyer-0", *dual_stack(), service).endpoints("outbound|store/store-v1|80") == ["fd00::21"]


def test_it_is_known_whether_the_mesh_has_its_mesh_config() -> None:
    compiler, config = Compiler(MeshSettings()), objects.mesh_config()
    assert compiler.lacks_mesh_config
    compiler.fold(config, 1, epoch="e")
    assert not compiler.lacks_mesh_config
    compiler.fold(msgspec.structs.replace(config, operation=DELETED, object=None), 2, epoch="e")
    assert compiler.lacks_mesh_config
