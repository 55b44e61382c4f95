"""Never more, and never less, than the policy: rendered sidecars agree with a reading of the specification."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.calls.matching import Request
from cli.calls.sidecars import Sidecars, Way
from services.compiler.compiler import Compiler
from services.compiler.mesh import MeshSettings
from services.compiler.offline import compile_events
from shared.events import Event
from shared.snapshot import Snapshot
from tests.oracle import meshes
from tests.oracle.smi import Ask, Cluster, Name
from tests.unit.compiler import objects

SLOW = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
DRAWS = 12


def split_key(key: str) -> Name:
    _, namespace, name = key.split("/")
    return namespace, name


def request_of(ask: Ask) -> Request:
    return Request(method=ask.method, path=ask.path, headers=ask.headers)


def expected(
    cluster: Cluster, caller: Name, service: meshes.Offered, address: tuple[str, int], ask: Ask | None
) -> tuple[dict[Name, Fraction], set[tuple[str, Name, int, bool]]]:
    """Shares of the backends, and every pod that a call may arrive at: backend, pod, port, whether it may."""
    host, port = address
    root = (service.namespace, service.name)
    shares = cluster.spread(root, port, ask)
    ways: set[tuple[str, Name, int, bool]] = set()
    for backend in shares:
        pods = cluster.behind(backend, port)
        if service.headless and backend == root:
            target = next(target for number, target, _ in service.ports if number == port)
            addressed = [pod for pod, _ in cluster.behind_or_not(root, port) if cluster.address(pod) == host]
            pods = [(pod, target) for pod in addressed]
        ways.update((backend[1], pod, number, cluster.may(caller, pod, number, ask)) for pod, number in pods)
    return shares, ways


def backend_of(way: Way) -> str:
    return way.cluster.split("|")[1].partition("/")[2]


def check(mesh: meshes.Mesh, snapshot: Snapshot, cluster: Cluster, data: st.DataObject) -> None:
    sidecars = Sidecars(snapshot, mesh.addresses)
    callers = sorted(snapshot.proxies)
    for _ in range(DRAWS if callers else 0):
        caller = data.draw(st.sampled_from(callers))
        service = data.draw(st.sampled_from(mesh.services))
        port, _, label = data.draw(st.sampled_from(service.ports))
        ask = None if label.startswith("tcp") else data.draw(meshes.asks())
        host = data.draw(st.sampled_from(mesh.hosts_of(service)))
        verdict = sidecars.decide(caller, host, port, request_of(ask or Ask("GET", "/")))
        if service.headless and f"outbound|{service.namespace}/{service.name}|{port}" != verdict.chain:
            # Not a pod of that service, or one that an older headless service has.
            continue
        shares, wanted = expected(cluster, split_key(caller), service, (host, port), ask)
        told = {(backend_of(way), split_key(way.pod), way.port, way.passes) for way in verdict.ways if way.pod}
        may = {way for way in wanted if way[3]}
        assert {way for way in told if way[3]} == may
        if verdict.chain == "default" or not may:
            continue
        assert told == wanted
        weights: dict[str, int] = defaultdict(int)
        for way in verdict.ways:
            weights[backend_of(way)] = way.weight
        total = sum(weights.values())
        assert {name: Fraction(weight, total) for name, weight in weights.items()} == {
            name: share for (_, name), share in shares.items()
        }


def agrees(mesh: meshes.Mesh, data: st.DataObject) -> None:
    check(mesh, compile_events(mesh.events), Cluster(mesh.events), data)


@settings(SLOW, max_examples=100)
@given(meshes.meshes(), st.data())
def test_sidecars_agree_with_the_specification(mesh: meshes.Mesh, data: st.DataObject) -> None:
    """On allow and deny, on the backends and on their shares."""
    agrees(mesh, data)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(SLOW, max_examples=5000)
@given(meshes.meshes(), st.data())
def test_sidecars_agree_with_the_specification_in_thousands_of_meshes(mesh: meshes.Mesh, data: st.DataObject) -> None:
    agrees(mesh, data)


def assert_no_step_grants_more(mesh: meshes.Mesh, changes: list[Event], data: st.DataObject) -> None:
    """While a version arrives, callers and servers may be at it or at the one before, in any combination."""
    compiler, snapshot = Compiler(MeshSettings()), Snapshot()
    sequence = 0
    for event in mesh.events:
        sequence += 1
        compiler.fold(event, sequence)
    before = Snapshot()
    cluster_before = Cluster(mesh.events)
    commit = compiler.commit(snapshot)
    assert commit is not None
    snapshot.apply(commit)
    compiler.accept()
    before.apply(snapshot.keyframe())
    for change in changes:
        cluster = cluster_before.copy()
        cluster.take(change)
        sequence += 1
        compiler.fold(change, sequence)
        commit = compiler.commit(snapshot)
        if commit is not None:
            snapshot.apply(commit)
        compiler.accept()
        for callers, servers in ((snapshot, before), (before, snapshot), (snapshot, snapshot)):
            step(mesh, (callers, servers), (cluster_before, cluster), data)
        before = Snapshot()
        before.apply(snapshot.keyframe())
        cluster_before = cluster


def step(
    mesh: meshes.Mesh, versions: tuple[Snapshot, Snapshot], clusters: tuple[Cluster, Cluster], data: st.DataObject
) -> None:
    sidecars = Sidecars(versions[0], mesh.addresses, servers=versions[1])
    callers = sorted(versions[0].proxies)
    if not callers:
        return
    caller = data.draw(st.sampled_from(callers))
    service = data.draw(st.sampled_from(mesh.services))
    port, _, label = data.draw(st.sampled_from(service.ports))
    ask = None if label.startswith("tcp") else data.draw(meshes.asks())
    host = data.draw(st.sampled_from(mesh.hosts_of(service)))
    for way in sidecars.decide(caller, host, port, request_of(ask or Ask("GET", "/"))).ways:
        if way.passes:
            assert any(cluster.may(split_key(caller), split_key(way.pod), way.port, ask) for cluster in clusters), way


changes = st.lists(
    st.one_of(
        meshes.policies,
        meshes.policies,
        st.builds(
            objects.deleted,
            st.sampled_from(("TrafficTarget", "HTTPRouteGroup", "TrafficSplit", "IdentityBinding")),
            meshes.namespaces,
            st.sampled_from(("t1", "t2", "g1", "g2", "s1", "s2", "ann", "bob")),
        ),
        meshes.namespaces.flatmap(meshes.namespace_events),
    ),
    min_size=1,
    max_size=6,
)


@settings(SLOW, max_examples=50)
@given(meshes.meshes(), changes, st.data())
def test_no_version_grants_what_neither_policy_grants(
    mesh: meshes.Mesh, changes: list[Event], data: st.DataObject
) -> None:
    assert_no_step_grants_more(mesh, changes, data)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(SLOW, max_examples=3000)
@given(meshes.meshes(), changes, st.data())
def test_no_version_of_thousands_grants_what_neither_policy_grants(
    mesh: meshes.Mesh, changes: list[Event], data: st.DataObject
) -> None:
    assert_no_step_grants_more(mesh, changes, data)
