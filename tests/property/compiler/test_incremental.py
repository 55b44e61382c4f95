"""Incremental equals from scratch, byte for byte; and a snapshot is whole at every version."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from hypothesis import HealthCheck, given, settings

from services.compiler.compiler import Compiler
from services.compiler.mesh import MeshSettings
from services.compiler.names import DENIED
from services.compiler.offline import compile_events
from shared.events import Event
from shared.snapshot import CDS, EDS, LDS, RDS, Snapshot, resource_hash
from tests.property.compiler.worlds import flat, histories
from tests.unit.compiler import objects

SLOW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def contents(snapshot: Snapshot) -> object:
    bodies = {identity: resource.body for identity, resource in snapshot.resources.items()}
    views = {name: {kind: held for kind, held in view.items() if held} for name, view in snapshot.views.items()}
    return bodies, views, snapshot.proxies, snapshot.quarantine, snapshot.mesh_namespaces


def bodies(snapshot: Snapshot, view: dict[str, dict[str, str]], type_url: str) -> list[bytes]:
    return [snapshot.resources[type_url, name, digest].body for name, digest in view.get(type_url, {}).items()]


def assert_whole(snapshot: Snapshot, *, proxyless: bool = False) -> None:
    """Every name that a view uses is in the view, and every body is used by one. `proxyless`: some have no sidecar."""
    used: set[tuple[str, str, str]] = set()
    for view in snapshot.views.values():
        used.update((kind, name, digest) for kind, held in view.items() for name, digest in held.items())
        if proxyless and "inbound" not in view.get(LDS, {}):
            continue  # of pods without a sidecar: a listener for each port that may be called
        clusters, wanted_clusters = set(view.get(CDS, {})), set[str]()
        wanted_endpoints, wanted_routes = set[str](), set[str]()
        for body in bodies(snapshot, view, CDS):
            cluster = Cluster.FromString(body)
            if cluster.eds_cluster_config.service_name:
                wanted_endpoints.add(cluster.eds_cluster_config.service_name)
        for body in bodies(snapshot, view, LDS):
            listener = Listener.FromString(body)
            matches = [
                chain.filter_chain_match.SerializeToString(deterministic=True) for chain in listener.filter_chains
            ]
            assert len(matches) == len(set(matches)), "Envoy refuses a listener with two equal matches"
            for chain in (*listener.filter_chains, listener.default_filter_chain):
                for item in chain.filters:
                    if item.typed_config.type_url.endswith("HttpConnectionManager"):
                        wanted_routes.add(
                            HttpConnectionManager.FromString(item.typed_config.value).rds.route_config_name
                        )
                    elif item.typed_config.type_url.endswith("TcpProxy"):
                        proxy = TcpProxy.FromString(item.typed_config.value)
                        wanted_clusters.update(part.name for part in proxy.weighted_clusters.clusters)
                        wanted_clusters.update([proxy.cluster] if proxy.cluster else [])
        for body in bodies(snapshot, view, RDS):
            for route in RouteConfiguration.FromString(body).virtual_hosts[0].routes:
                wanted_clusters.update(part.name for part in route.route.weighted_clusters.clusters)
                wanted_clusters.update([route.route.cluster] if route.route.cluster else [])
        # Where a call is denied the bootstrap says.
        assert wanted_clusters - {DENIED} <= clusters
        assert wanted_endpoints == set(view.get(EDS, {}))
        assert wanted_routes == set(view.get(RDS, {}))
        assert set(view.get(LDS, {})) == {"inbound", "outbound"}
    assert used == set(snapshot.resources)
    assert {proxy.workload_class for proxy in snapshot.proxies.values()} == set(snapshot.views)
    for (type_url, name, digest), resource in snapshot.resources.items():
        assert (resource.type_url, resource.name, resource.hash) == (type_url, name, digest)
        assert digest == resource_hash(type_url, resource.body)


def incremental(batches: list[list[Event]], settings: MeshSettings | None = None) -> Snapshot:
    compiler, snapshot = Compiler(settings or MeshSettings()), Snapshot()
    sequence = 0
    for batch in batches:
        for event in batch:
            sequence += 1
            compiler.fold(event, sequence)
        commit = compiler.commit(snapshot)
        if commit is not None:
            snapshot.apply(commit)
            assert_whole(snapshot)
        compiler.accept()
    assert not compiler.failures
    return snapshot


def assert_incremental_is_from_scratch(batches: list[list[Event]]) -> None:
    assert contents(incremental(batches)) == contents(compile_events(flat(batches)))


@settings(SLOW, max_examples=200)
@given(histories())
def test_incremental_is_from_scratch(batches: list[list[Event]]) -> None:
    assert_incremental_is_from_scratch(batches)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(SLOW, max_examples=5000)
@given(histories())
def test_incremental_is_from_scratch_in_thousands_of_histories(batches: list[list[Event]]) -> None:
    assert_incremental_is_from_scratch(batches)


@SLOW
@given(histories())
def test_the_order_of_events_about_different_objects_does_not_matter(batches: list[list[Event]]) -> None:
    """Only for objects that were written once: of the others, a last good form may stay in force."""
    once = {(event.kind, event.namespace, event.name): event for event in reversed(flat(batches))}
    forward = list(once.values())
    assert contents(compile_events(forward)) == contents(compile_events(reversed(forward)))


def newest(history: list[Event]) -> list[Event]:
    """The newest event of each object; all of those kinds whose last good form may be an older one."""
    last = {(event.kind, event.namespace, event.name): event for event in history}
    keep_last_good = {"TrafficSplit", "MeshConfig", "UDPRoute"}
    return [
        event
        for event in history
        if event.kind in keep_last_good or event is last[event.kind, event.namespace, event.name]
    ]


def assert_only_the_newest_event_matters(batches: list[list[Event]]) -> None:
    assert contents(incremental(batches)) == contents(compile_events(newest(flat(batches))))


@settings(SLOW, max_examples=100)
@given(histories())
def test_only_the_newest_event_of_each_object_matters(batches: list[list[Event]]) -> None:
    """Nothing remains of what an object was before: no index, no answer."""
    assert_only_the_newest_event_matters(batches)


@settings(SLOW, max_examples=30)
@given(histories())
def test_nothing_is_left_when_everything_is_deleted(batches: list[list[Event]]) -> None:
    compiler, snapshot = Compiler(MeshSettings()), Snapshot()
    history = flat(batches)
    gone = [objects.deleted(*key) for key in sorted({(event.kind, event.namespace, event.name) for event in history})]
    for sequence, event in enumerate([*history, *gone], 1):
        compiler.fold(event, sequence)
        if sequence == len(history):
            commit = compiler.commit(snapshot)
            if commit is not None:
                snapshot.apply(commit)
            compiler.accept()
    commit = compiler.commit(snapshot)
    if commit is not None:
        snapshot.apply(commit)
    assert (snapshot.resources, snapshot.views, snapshot.proxies, snapshot.quarantine) == ({}, {}, {}, [])
    assert compiler.answers <= 1


def fingerprint() -> str:
    """Of a small mesh in all modes, for comparison between processes."""
    digest = hashlib.sha256()
    for config in (objects.mesh_config(), objects.mesh_config(permissive=True, egress=True)):
        snapshot = compile_events([*objects.bookstore(), config])
        digest.update(repr(sorted(snapshot.resources)).encode())
        digest.update(repr(sorted(snapshot.views.items())).encode())
    return digest.hexdigest()


def test_hash_seeds_change_no_byte() -> None:
    found = {fingerprint()}
    for seed in ("1", "2"):
        script = "from tests.property.compiler.test_incremental import fingerprint; print(fingerprint())"
        root = Path(__file__).resolve().parents[3]
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            cwd=root,
        )
        found.add(done.stdout.strip())
    assert len(found) == 1
