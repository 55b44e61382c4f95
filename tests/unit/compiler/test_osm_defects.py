"""Defects that were found while reading Open Service Mesh: each has a test here that it is not ours.

Numbers are those of the list. Not here: 6, 7 and 15 (Telemetry, ingress and WASM render nothing in this mesh, which
`test_kinds_that_are_not_compiled_open_nothing` holds to), and 11 (certificates and probes: `tests/unit/ca`,
`tests/unit/injector/core/test_patch.py`).
"""

from __future__ import annotations

import itertools

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as NETWORK_RBAC
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext, UpstreamTlsContext

from cli.calls.matching import HttpRequest
from cli.calls.path import Sidecars
from services.compiler.core.offline import compile_events
from services.compiler.derive.services.protocols import protocol_of
from shared.projected_objects import ServicePort
from shared.records.events import Event
from shared.records.snapshot import CDS, Snapshot
from tests.unit.compiler import objects
from tests.unit.compiler.test_views import Told, told, without_policy

BUYER = "spiffe://cluster.local/ns/buy/sa/buyer"


def bodies(snapshot: Snapshot) -> set[tuple[str, str, str]]:
    return set(snapshot.resources)


@pytest.mark.parametrize("namespace", ["store", "buy", "outside"])
@pytest.mark.parametrize("kind", ["IngressBackend", "Telemetry", "Egress", "ExtensionService"])
def test_1_6_and_7_kinds_that_are_not_compiled_open_nothing(kind: str, namespace: str) -> None:
    """An IngressBackend of one namespace applied to a service of the same name in another."""
    spec = {
        "backends": [{"name": "store-v1", "port": {"number": 8080, "protocol": "http"}}],
        "sources": [{"kind": "Service", "name": "anything", "namespace": "outside"}],
    }
    more = objects.policy(
        kind, namespace, "store-v1", spec, api_version="policy.openservicemesh.io/v1alpha1", created=""
    )
    assert bodies(compile_events([*objects.bookstore(), more])) == bodies(compile_events(objects.bookstore()))


def test_2_without_any_traffic_target_nobody_connects_to_a_port_of_bytes() -> None:
    """The chain had no access rules at all then, so that any certificate of the mesh would do."""
    chain = told("store/db-0", mesh=without_policy()).chains("inbound")["inbound|5432"]
    guard = NETWORK_RBAC()
    assert chain.filters[0].typed_config.Unpack(guard)
    assert not guard.rules.policies, "an allow list without entries"
    context = DownstreamTlsContext()
    assert chain.transport_socket.typed_config.Unpack(context)
    names = context.common_tls_context.combined_validation_context.default_validation_context
    assert [one.matcher.exact for one in names.match_typed_subject_alt_names] == ["spiffe://cluster.local/nobody"]


def test_3_the_identities_of_a_service_are_those_of_its_own_namespace() -> None:
    """Pods of other namespaces with the same labels were expected behind it too."""
    twin = objects.pod("buy", "twin", account="intruder", ip="10.244.1.9", labels={"app": "store", "version": "v1"})
    cluster = told("buy/buyer-0", twin).get(Cluster, "outbound|store/store-v1|80")
    context = UpstreamTlsContext()
    assert cluster.transport_socket.typed_config.Unpack(context)
    names = context.common_tls_context.combined_validation_context.default_validation_context
    expected = ["spiffe://cluster.local/ns/store/sa/store-v1"]
    assert [one.matcher.exact for one in names.match_typed_subject_alt_names] == expected


def test_4_no_port_has_the_filters_of_another() -> None:
    """Filters of earlier ports piled up on later ones."""
    ports = [ServicePort(port=80 + n, target_port=8080 + n, name=f"http-{n}") for n in range(3)]
    ports.append(ServicePort(port=5432, name="tcp-db"))
    chains = told(
        "store/v1-0", objects.service("store", "many", ip="10.96.9.9", selector={"app": "store"}, ports=ports)
    )
    found: dict[str, list[str]] = {}
    for name, chain in chains.chains("inbound").items():
        kinds = [item.name for item in chain.filters]
        if kinds[-1].endswith("http_connection_manager"):
            manager = HttpConnectionManager()
            assert chain.filters[-1].typed_config.Unpack(manager)
            kinds += [item.name for item in manager.http_filters]
        found[name] = kinds
    chain = ("network.http_connection_manager", "http.header_mutation", "http.rbac", "http.router")
    http = [f"envoy.filters.{name}" for name in chain]
    assert [found[f"inbound|{8080 + n}"] for n in range(3)] == [http] * 3
    assert found["inbound|5432"] == ["envoy.filters.network.rbac", "envoy.filters.network.tcp_proxy"]


def stateful() -> list[Event]:
    pods = {"db-0": "10.244.2.3", "db-1": "10.244.2.4"}
    return [
        objects.pod("store", "db-1", account="db", ip="10.244.2.4", labels={"app": "db"}),
        objects.service("store", "peers", ip="None", selector={"app": "db"}, ports=[ServicePort(port=8080)]),
        objects.slices("store", "peers", pods),
        objects.target(
            "store", "web", destination="db", sources=[("buy", "buyer")], rules=[("HTTPRouteGroup", "routes", [])]
        ),
    ]


def test_5_members_of_a_stateful_set_share_no_host_name_and_are_reached_one_by_one() -> None:
    """Several virtual hosts had the same domains, which Envoy refuses, and host names of pods led nowhere."""
    snapshot = compile_events([*objects.bookstore(), *stateful()])
    found = Told(snapshot, "buy/buyer-0")
    hosts = found.get(RouteConfiguration, "outbound|store/peers|8080").virtual_hosts
    assert [list(host.domains) for host in hosts] == [["*"]]
    pods = {"10.244.2.3": "cluster/store/db-0", "10.244.2.4": "cluster/store/db-1"}
    sidecars = Sidecars(snapshot, pods)
    for address, pod in pods.items():
        (way,) = sidecars.decide("cluster/buy/buyer-0", address, 8080, HttpRequest(path="/books")).ways
        assert (way.pod, way.passes) == (pod, True)


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_8_overlapping_expressions_of_different_callers_take_nothing_from_each_other(order: tuple[str, ...]) -> None:
    """Routes were first-match and in random order, so that the first one's callers were the only ones."""
    callers = {"a": ("buy", "buyer", "/.*"), "b": ("buy", "thief", "/books.*"), "c": ("store", "db", "/books/1")}
    more: list[Event] = []
    for letter, (namespace, account, path) in callers.items():
        name = f"t{order.index(letter)}"
        more.append(objects.route_group("store", name, {"name": "it", "pathRegex": path}))
        more.append(
            objects.target(
                "store",
                name,
                destination="store-v1",
                sources=[(namespace, account)],
                rules=[("HTTPRouteGroup", name, [])],
            )
        )
    sidecars = Sidecars(compile_events([*without_policy(), *more]), {})
    for namespace, account, _ in callers.values():
        identity = f"spiffe://cluster.local/ns/{namespace}/sa/{account}"
        assert sidecars.enter(identity, "cluster/store/v1-0", 8080, HttpRequest(path="/books/1")).passes
    assert not sidecars.enter(
        "spiffe://cluster.local/ns/store/sa/db", "cluster/store/v1-0", 8080, HttpRequest(path="/books/")
    ).passes


def test_9_pods_without_a_sidecar_are_no_part_of_the_mesh_though_their_namespace_is() -> None:
    """They were called by mutual TLS, which they do not speak."""
    plain = [
        objects.pod("store", "plain-0", account="store-v1", ip="10.244.2.9", labels={"app": "plain"}, sidecar=False),
        objects.service("store", "plain", ip="10.96.1.9"),
        objects.slices("store", "plain", {"plain-0": "10.244.2.9"}),
        objects.slices("store", "store-v1", {"plain-0": "10.244.2.9"}, suffix="1"),
    ]
    for permissive in (False, True):
        found = told("buy/buyer-0", *plain, objects.mesh_config(permissive=permissive))
        assert "outbound|store/plain|80" not in found.calls()
        assert found.endpoints("outbound|store/store-v1|80") == ["10.244.2.1"]


@pytest.mark.parametrize(
    "change",
    [
        objects.service("store", "store-v1", ip="10.96.1.77", selector={"app": "store", "version": "v1"}),
        objects.namespace("store", annotations={"meshlog.io/permissive": "true"}),
        objects.mesh_config(egress=True),
        objects.pod("store", "v2-0", account="store-v2", ip="10.244.2.2", labels={"app": "other"}),
    ],
    ids=["Service", "Namespace", "MeshConfig", "labels of a pod"],
)
def test_10_whatever_changes_a_configuration_is_sent(change: Event) -> None:
    """Changes of these reached proxies with the next change of something else."""
    before, after = (compile_events([*objects.bookstore(), *more]) for more in ([], [change]))
    assert bodies(before) != bodies(after) or before.views != after.views


def test_10_a_service_without_endpoints_has_no_port_0() -> None:
    """Its cluster had a name with port 0 until there were endpoints, and another one then."""
    without = [event for event in objects.bookstore() if event.kind != "EndpointSlice"]
    empty = objects.slices("store", "store-v1", {"v1-0": "10.244.2.1"}, unready=["v1-0"])
    found = Told(compile_events([*without, empty]), "buy/buyer-0")
    assert "outbound|store/store-v1|80" in found.view[CDS]
    assert found.endpoints("outbound|store/store-v1|80") == []
    for name in ("inbound|0", "local|0"):
        assert not any(name in view for views in found.snapshot.views.values() for view in views.values())


def test_12_a_split_of_no_weight_is_an_answer_and_not_a_route_without_a_cluster() -> None:
    none = objects.split("store", "canary", root="store", backends={"store-v1": 0, "store-v2": 0})
    (route,) = told("buy/buyer-0", none).routes("outbound|store/store|80")
    assert route.direct_response.status == 503


@pytest.mark.parametrize("word", ["http", "HTTP", "Http2", "GRPC"])
def test_13_the_case_of_a_protocol_does_not_matter(word: str) -> None:
    assert protocol_of(ServicePort(port=80, app_protocol=word)) == "http"
    assert protocol_of(ServicePort(port=80, name=f"{word}-a")) == "http"


def test_13_ports_of_udp_are_passed_over_in_silence() -> None:
    """Each build logged an error for each of them."""
    both = [ServicePort(port=80, target_port=8080), ServicePort(port=53, protocol="UDP", name="dns")]
    selector = {"app": "store", "version": "v1"}
    found = told("buy/buyer-0", objects.service("store", "store-v1", ip="10.96.1.2", selector=selector, ports=both))
    assert "outbound|store/store-v1|80" in found.calls()
    assert not any(name.endswith("|53") for name in found.calls())
    assert found.snapshot.quarantine == []


def test_14_an_ipv6_address_is_matched_whole() -> None:
    """It had a prefix of 32 bits, which takes in a whole provider."""
    six = objects.service("store", "store-v1", ip="fd00::1", selector={"app": "store", "version": "v1"})
    found = told("buy/buyer-0", six).get(Listener, "outbound")
    prefixes = {
        prefix.address_prefix: prefix.prefix_len.value
        for chain in found.filter_chains
        for prefix in chain.filter_chain_match.prefix_ranges
    }
    assert prefixes["fd00::1"] == 128
    assert prefixes["10.96.1.3"] == 32
