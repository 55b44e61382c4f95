"""At every step: while a version arrives in parts, nobody gets through whom neither policy lets through."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.calls.path import CallPath, Sidecars
from services.compiler.core.compiler import Compiler
from services.compiler.mesh_state import MeshSettings
from shared.records.events import Event
from shared.records.snapshot import Snapshot
from tests.oracle import meshes
from tests.oracle.between import STAGES, between
from tests.oracle.deciding import identity_of, request_of, split_key
from tests.oracle.meshes import BYTES, Mesh
from tests.oracle.smi import Ask, Cluster, Name
from tests.unit.compiler import objects

SLOW = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
DRAWS = 6
"""Calls of each kind that are tried on each step."""

_GONE = (
    ("TrafficTarget", ("open-ann", "open-bob", "open-cid", "t1", "t2")),
    ("HTTPRouteGroup", ("g1", "g2")),
    ("TCPRoute", ("g1", "g2")),
    ("TrafficSplit", ("s1", "s2")),
    ("IdentityBinding", meshes.ACCOUNTS),
    ("Service", meshes.SERVICES),
    ("Pod", meshes.POD_NAMES),
)


@st.composite
def changes_of(draw: st.DrawFn, mesh: Mesh) -> Event:
    """One change of a mesh that stands."""
    sort = draw(st.integers(0, 9))
    if sort < 4:
        return draw(meshes.policies)
    if sort < 8:
        kind, names = draw(st.sampled_from(_GONE))
        return objects.deleted(kind, draw(meshes.namespaces), draw(st.sampled_from(names)))
    if sort < 9:
        return draw(meshes.namespace_events(draw(meshes.namespaces)))
    return _unreadable(draw(st.sampled_from([event for event in mesh.events if event.kind == "TrafficTarget"])))


def _unreadable(event: Event) -> Event:
    """An object whose new form says nothing: it may have been meant to revoke."""
    return objects.policy(event.kind, event.namespace, event.name, {}, api_version=objects.ACCESS, created="")


@st.composite
def histories(draw: st.DrawFn) -> tuple[Mesh, list[list[Event]]]:
    """A mesh, and versions that follow, each of a few changes at once."""
    mesh = draw(meshes.meshes(contested=True))
    versions = draw(st.lists(st.lists(changes_of(mesh), min_size=1, max_size=3), min_size=1, max_size=5))
    return mesh, versions


History = tuple[Mesh, list[list[Event]]]


class Versions:
    """The compiled mesh and the objects it was made from, now and one version ago."""

    def __init__(self, mesh: Mesh) -> None:
        self._compiler = Compiler(MeshSettings())
        self._snapshot = Snapshot()
        self._sequence = 0
        self.snapshots = (Snapshot(), Snapshot())
        self.clusters = (Cluster(()), Cluster(()))
        self.advance(mesh.events)

    def advance(self, events: list[Event]) -> None:
        """The next version."""
        cluster = self.clusters[1].copy()
        for event in events:
            self._sequence += 1
            self._compiler.fold(event, self._sequence)
            cluster.take(event)
        commit = self._compiler.commit(self._snapshot)
        if commit is not None:
            self._snapshot.apply(commit)
        self._compiler.accept()
        kept = Snapshot()
        kept.apply(self._snapshot.keyframe())
        self.snapshots = (self.snapshots[1], kept)
        self.clusters = (self.clusters[1], cluster)

    def account(self, key: str) -> Name:
        """The account of a pod, which it has for life."""
        pod = split_key(key)
        return self.clusters[0 if self.clusters[0].get("Pod", *pod) else 1].account(pod)

    def grant(self, account: Name, way: CallPath, ask: Ask | None) -> bool:
        """Whether the policy before or the one after lets it through."""
        return any(cluster.admits(account, split_key(way.pod), way.port, ask) for cluster in self.clusters)


def step(mesh: Mesh, versions: Versions, data: st.DataObject) -> None:
    """Callers and servers are each anywhere on the way; calls go through both, or come from who asks a server alone."""
    stages = st.integers(0, STAGES - 1)
    for _ in range(DRAWS):
        callers, servers = (between(*versions.snapshots, data.draw(stages)) for _ in range(2))
        if not callers.proxies:
            return
        caller = data.draw(st.sampled_from(sorted(callers.proxies)))
        service = data.draw(st.sampled_from(mesh.services))
        port, target, label = data.draw(st.sampled_from(service.ports))
        ask = None if label.startswith("tcp") else data.draw(meshes.asks())
        host = data.draw(st.sampled_from(mesh.hosts_of(service)))
        sidecars = Sidecars(callers, mesh.addresses, servers=servers)
        ways = sidecars.decide(caller, host, port, request_of(ask or Ask("GET", "/"))).ways
        server = data.draw(st.sampled_from(sorted(servers.proxies)))
        asked = None if target == BYTES else ask
        for way in ways:
            account = versions.account(caller)
            assert not way.passes or versions.grant(account, way, ask), (account, way, ask)
        account = data.draw(meshes.namespaces), data.draw(meshes.accounts)
        way = sidecars.enter(identity_of(account), server, target, None if asked is None else request_of(asked))
        assert not way.passes or versions.grant(account, way, asked), (account, way, asked)


def assert_no_step_grants_more(history: tuple[Mesh, list[list[Event]]], data: st.DataObject) -> None:
    mesh, changes = history
    versions = Versions(mesh)
    for events in changes:
        versions.advance(events)
        step(mesh, versions, data)


@settings(SLOW, max_examples=60)
@given(histories(), st.data())
def test_no_step_of_a_version_grants_what_neither_policy_grants(
    history: tuple[Mesh, list[list[Event]]], data: st.DataObject
) -> None:
    assert_no_step_grants_more(history, data)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(SLOW, max_examples=3000)
@given(histories(), st.data())
def test_no_step_of_thousands_of_versions_grants_what_neither_policy_grants(
    history: tuple[Mesh, list[list[Event]]], data: st.DataObject
) -> None:
    assert_no_step_grants_more(history, data)
