"""Compile a list of events without any log: what tests, replays and the command do."""

from __future__ import annotations

from collections.abc import Iterable

from services.compiler.core.compiler import Compiler
from services.compiler.mesh_state import MeshSettings
from shared.records.events import Event
from shared.records.snapshot import Snapshot


def compile_events(events: Iterable[Event], settings: MeshSettings | None = None) -> Snapshot:
    """The snapshot after the last of the events; their sequences count from 1."""
    compiler = Compiler(settings or MeshSettings())
    for sequence, event in enumerate(events, 1):
        compiler.fold(event, sequence, epoch="offline")
    snapshot = Snapshot()
    commit = compiler.commit(snapshot)
    if commit is not None:
        snapshot.apply(commit)
    return snapshot
