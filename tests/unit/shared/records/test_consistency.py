"""What makes a snapshot inconsistent: one kind of break a row, each of a snapshot that the compiler made."""

from __future__ import annotations

import copy
from collections.abc import Callable

import msgspec
import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.message import Message

from services.compiler.core.offline import compile_events
from shared.records.consistency import Checker, References, inconsistencies
from shared.records.snapshot import CDS, EDS, LDS, RDS, SDS, Resource, ResourceId, Snapshot, resource_hash
from tests.unit.compiler import objects

WEB = "outbound|shop/web|80"


def made() -> Snapshot:
    return compile_events(
        [
            objects.namespace("shop"),
            objects.mesh_config(permissive=True),
            objects.pod("shop", "web-0", account="web", ip="10.0.0.1", labels={"app": "web"}),
            objects.service("shop", "web"),
            objects.slices("shop", "web", {"web-0": "10.0.0.1"}, ports={"": 8080}),
        ]
    )


def only(snapshot: Snapshot) -> dict[str, dict[str, str]]:
    (view,) = snapshot.views.values()
    return view


def put(snapshot: Snapshot, type_url: str, name: str, body: bytes) -> None:
    """Replace what is held under a name, or add it."""
    digest = resource_hash(type_url, body)
    before = only(snapshot).setdefault(type_url, {}).get(name)
    snapshot.resources.pop((type_url, name, before or ""), None)
    only(snapshot)[type_url][name] = digest
    snapshot.resources[type_url, name, digest] = Resource(type_url, name, digest, body)


def drop(snapshot: Snapshot, type_url: str, name: str) -> None:
    del snapshot.resources[type_url, name, only(snapshot)[type_url].pop(name)]


def body(snapshot: Snapshot, type_url: str, name: str) -> bytes:
    return snapshot.resources[type_url, name, only(snapshot)[type_url][name]].body


def no_endpoints(snapshot: Snapshot) -> None:
    (name,) = only(snapshot)[EDS]
    drop(snapshot, EDS, name)


def needless_endpoints(snapshot: Snapshot) -> None:
    put(snapshot, EDS, "other", ClusterLoadAssignment(cluster_name="other").SerializeToString())


def no_routes(snapshot: Snapshot) -> None:
    drop(snapshot, RDS, WEB)


def needless_routes(snapshot: Snapshot) -> None:
    put(snapshot, RDS, "other", RouteConfiguration(name="other").SerializeToString())


def no_cluster(snapshot: Snapshot) -> None:
    drop(snapshot, CDS, "local|8080")


def no_cluster_of_bytes(snapshot: Snapshot) -> None:
    drop(snapshot, CDS, "blackhole")


def no_listener(snapshot: Snapshot) -> None:
    drop(snapshot, LDS, "inbound")
    drop(snapshot, RDS, "inbound|8080")


def no_body(snapshot: Snapshot) -> None:
    del snapshot.resources[RDS, WEB, only(snapshot)[RDS][WEB]]


def damaged(snapshot: Snapshot) -> None:
    put(snapshot, RDS, WEB, b"\xff\xff")


def another_type(snapshot: Snapshot) -> None:
    put(snapshot, SDS, "secret", b"")


def other_bytes(snapshot: Snapshot) -> None:
    key = (CDS, "blackhole", only(snapshot)[CDS]["blackhole"])
    cluster = Cluster.FromString(snapshot.resources[key].body)
    cluster.connect_timeout.seconds = 7
    snapshot.resources[key] = msgspec.structs.replace(snapshot.resources[key], body=cluster.SerializeToString())


def misplaced(snapshot: Snapshot) -> None:
    key = (CDS, "blackhole", only(snapshot)[CDS]["blackhole"])
    snapshot.resources[key] = msgspec.structs.replace(snapshot.resources[key], name="other")


def misnamed(snapshot: Snapshot) -> None:
    put(snapshot, CDS, "blackhole", Cluster(name="other").SerializeToString())


def chain_twice(snapshot: Snapshot) -> None:
    listener = Listener.FromString(body(snapshot, LDS, "outbound"))
    again = copy.deepcopy(listener.filter_chains[0])
    again.filter_chain_match.destination_port.value = 81
    listener.filter_chains.append(again)
    put_message(snapshot, LDS, "outbound", listener)


def match_twice(snapshot: Snapshot) -> None:
    listener = Listener.FromString(body(snapshot, LDS, "outbound"))
    again = copy.deepcopy(listener.filter_chains[0])
    again.name = "again"
    listener.filter_chains.append(again)
    put_message(snapshot, LDS, "outbound", listener)


def host_twice(snapshot: Snapshot) -> None:
    routes = RouteConfiguration.FromString(body(snapshot, RDS, WEB))
    routes.virtual_hosts.append(routes.virtual_hosts[0])
    put_message(snapshot, RDS, WEB, routes)


def put_message(snapshot: Snapshot, type_url: str, name: str, message: Message) -> None:
    put(snapshot, type_url, name, message.SerializeToString(deterministic=True))


def unused(snapshot: Snapshot) -> None:
    snapshot.resources[CDS, "more", "0"] = Resource(CDS, "more", "0", b"")


def no_proxy(snapshot: Snapshot) -> None:
    snapshot.proxies.clear()


def no_view(snapshot: Snapshot) -> None:
    (key, proxy), *_ = snapshot.proxies.items()
    snapshot.proxies["more"] = msgspec.structs.replace(proxy, workload_class="gone")
    assert key


BREAKS: tuple[tuple[Callable[[Snapshot], None], str], ...] = (
    (no_endpoints, f"refers to endpoints {WEB}~"),
    (needless_endpoints, "endpoints other is not referred to"),
    (no_routes, f"listener outbound refers to route {WEB}, which is not there"),
    (needless_routes, "route other is not referred to"),
    (no_cluster, "route inbound|8080 refers to cluster local|8080, which is not there"),
    (no_cluster_of_bytes, "refers to cluster blackhole, which is not there"),
    (no_listener, "listener inbound is missing"),
    (no_body, f"route {WEB}@"),
    (damaged, f"route {WEB} cannot be read"),
    (another_type, "a type that no compiler renders"),
    (other_bytes, "cluster blackhole has other bytes than its hash"),
    (misplaced, "cluster blackhole is held as"),
    (misnamed, "cluster blackhole has a body that is named 'other'"),
    (chain_twice, f"listener outbound names filter chain {WEB} twice"),
    (match_twice, f"listener outbound has the match of filter chain {WEB} twice"),
    (host_twice, f"route {WEB} names virtual host {WEB} twice"),
    (host_twice, f"route {WEB} has domain * in two virtual hosts"),
    (unused, "cluster more@0 is in no view"),
    (no_proxy, "has no proxy"),
    (no_view, "proxy more is of class gone, which has no view"),
)


def test_what_the_compiler_made_is_consistent() -> None:
    assert len(made().resources) > 5
    assert inconsistencies(made()) == []


@pytest.mark.parametrize(("broken", "sentence"), BREAKS)
def test_each_break_is_found_and_named(broken: Callable[[Snapshot], None], sentence: str) -> None:
    snapshot = made()
    broken(snapshot)
    found = inconsistencies(snapshot)
    assert any(sentence in one for one in found), found


def test_only_the_classes_that_are_asked_about_are_checked() -> None:
    """What one proxy holds is a part of a snapshot: what nothing uses is not known of a part."""
    snapshot = made()
    unused(snapshot)
    (name,) = snapshot.views
    assert inconsistencies(snapshot, [name]) == []
    no_routes(snapshot)
    assert inconsistencies(snapshot, [name])
    assert inconsistencies(snapshot, ["another"]) == []


def test_a_resource_is_read_once_and_forgotten_when_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    from shared.records import consistency

    read: list[ResourceId] = []
    real = consistency.references

    def noting(identity: ResourceId, resource: Resource) -> References:
        read.append(identity)
        return real(identity, resource)

    monkeypatch.setattr(consistency, "references", noting)
    checker, snapshot = Checker(), made()
    assert checker.check(snapshot) == checker.check(snapshot) == []
    assert len(read) == len(snapshot.resources)
    for wait in range(3 * len(read)):
        put(snapshot, CDS, "blackhole", Cluster(name="blackhole", alt_stat_name=str(wait)).SerializeToString())
        checker.check(snapshot, [*snapshot.views])
    assert len(checker.known) <= 2 * len(snapshot.resources) + 1
