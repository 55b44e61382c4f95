"""Never more, and never less, than the policy: rendered sidecars agree with a reading of the specification."""

from __future__ import annotations

import random
from collections import defaultdict
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.calls.path import CallPath, Sidecars
from services.compiler.core.offline import compile_events
from shared.records.snapshot import Snapshot
from tests.oracle import meshes
from tests.oracle.deciding import expected, identity_of, request_of, split_key
from tests.oracle.smi import Ask, Cluster

SLOW = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
DRAWS = 12
"""Calls from applications that are tried in each mesh, through both sidecars."""
INTRUSIONS = 60
"""Calls past the caller's own sidecar."""


def backend_of(way: CallPath) -> str:
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
        name = (service.namespace, service.name)
        if service.headless and f"outbound|{service.namespace}/{service.name}|{port}" != verdict.chain:
            # Not a pod of that service, or one that an older headless service has.
            continue
        if (
            (cluster.pod_at(host) or ("",))[0] != service.namespace
            if service.headless
            else cluster.service_at(host) != name
        ):
            assert verdict.chain != f"outbound|{service.namespace}/{service.name}|{port}", "the address is another's"
            continue
        # Who is led somewhere by the mesh is led to a sidecar, of whom the address is.
        assert not [way.rule for way in verdict.ways if way.rule.startswith("no sidecar answers")]
        shares, wanted = expected(cluster, split_key(caller), service, (host, port), ask)
        told = {(backend_of(way), split_key(way.pod), way.port, way.passes) for way in verdict.ways if way.pod}
        may = {way for way in wanted if way[3]}
        assert {way for way in told if way[3]} == may, (told, wanted, verdict)
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


def check_servers(mesh: meshes.Mesh, snapshot: Snapshot, cluster: Cluster, data: st.DataObject) -> None:
    """Servers alone: whoever has a certificate asks them directly, past any sidecar of its own."""
    sidecars = Sidecars(snapshot, mesh.addresses)
    pods = sorted(snapshot.proxies)
    choice = random.Random(data.draw(st.integers(0, 2**16)))  # noqa: S311 (the same calls each time)
    wanted = data.draw(st.lists(meshes.asks(), min_size=3, max_size=6))
    for _ in range(INTRUSIONS if pods else 0):
        account = choice.choice(meshes.NAMESPACES), choice.choice(meshes.ACCOUNTS)
        server, port = choice.choice(pods), choice.choice(meshes.TARGETS)
        ask = None if port == meshes.BYTES else choice.choice(wanted)
        way = sidecars.enter(identity_of(account), server, port, None if ask is None else request_of(ask))
        asked = split_key(server)
        wanted_there = cluster.opens(asked, port) and cluster.admits(account, asked, port, ask)
        assert way.passes == wanted_there, (account, way)


def agrees(mesh: meshes.Mesh, data: st.DataObject) -> None:
    snapshot, cluster = compile_events(mesh.events), Cluster(mesh.events)
    check(mesh, snapshot, cluster, data)
    check_servers(mesh, snapshot, cluster, data)


@settings(SLOW, max_examples=100)
@given(meshes.meshes(contested=True), st.data())
def test_sidecars_agree_with_the_specification(mesh: meshes.Mesh, data: st.DataObject) -> None:
    """On allow and deny, on the backends and on their shares."""
    agrees(mesh, data)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(SLOW, max_examples=5000)
@given(meshes.meshes(contested=True), st.data())
def test_sidecars_agree_with_the_specification_in_thousands_of_meshes(mesh: meshes.Mesh, data: st.DataObject) -> None:
    agrees(mesh, data)
