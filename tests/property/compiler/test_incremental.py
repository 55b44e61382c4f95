"""Incremental equals from scratch, byte for byte; and a snapshot is whole at every version."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from services.compiler.core.compiler import Compiler
from services.compiler.core.offline import compile_events
from services.compiler.mesh_state import MeshSettings
from shared.records.consistency import inconsistencies
from shared.records.events import Event
from shared.records.snapshot import LDS, Snapshot
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
    """A consistent snapshot, of sidecars alone unless `proxyless`."""
    assert inconsistencies(snapshot) == []
    for view in snapshot.views.values():
        assert proxyless or set(view.get(LDS, {})) == {"inbound", "outbound"}


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
