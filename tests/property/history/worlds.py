"""A log in memory as the live services leave it: events in batches, commits by a compiler that batches by chance."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from cli.history.archive import About
from cli.history.archive_export import export
from cli.history.archive_stream import Archive
from cli.history.log_source import LogSource
from services.compiler.core.compiler import Compiler
from services.compiler.log.snapshot_store import SnapshotStore
from services.compiler.mesh_state import MeshSettings
from shared.eventlog.protocol import Checkpoint, Draft, EventLog
from shared.records import events
from shared.records.events import Event
from shared.records.snapshot import Snapshot
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.unit.compiler.objects import CLUSTER

STREAMS = Streams()
ABOUT = About(
    cluster=CLUSTER,
    prefix="mesh",
    mesh_name="meshlog",
    namespace="meshlog-system",
    trust_domain="cluster.local",
    service_domain="cluster.local",
    build="test",
    exported="",
)


async def recorded(
    batches: Sequence[Sequence[Event]],
    *,
    together: Sequence[int] = (1,),
    keyframe_every: int = 7,
    epochs: Sequence[int] = (),
    clock: Callable[[], int] = time.time_ns,
    meanwhile: tuple[int, Callable[[EventLog], Awaitable[Checkpoint]]] | None = None,
) -> LogSource:
    """The log after these batches; the compiler takes `together` batches a commit, in turn.

    An epoch begins with each batch whose index is in `epochs`; before the batch of that index happens what is
    to happen `meanwhile`.
    """
    logs = MemoryLogs(STREAMS, clock=clock)
    log = await logs.open(STREAMS.events)
    scope = STREAMS.cluster_scope(CLUSTER)
    snapshots = SnapshotStore(await logs.open(STREAMS.snapshots), await logs.open(STREAMS.keyframes), STREAMS)
    await snapshots.load()
    compiler = Compiler(MeshSettings())
    tip = await log.tip(scope)
    due, commits = together[0], 0
    for index, batch in enumerate(batches):
        if not batch:
            continue
        if meanwhile is not None and meanwhile[0] == index:
            tip = await meanwhile[1](log)
            compiler = Compiler(MeshSettings())
            async for record in log.read(subjects=scope):
                compiler.fold(events.decode(record.payload), record.sequence, epoch=record.epoch)
        drafts = [Draft(event.subject(STREAMS), events.encode(event)) for event in batch]
        before = tip.sequence
        starts = index in epochs or not tip.epoch
        tip = await log.append(drafts, scope=scope, after=tip, epoch=f"e{index}" if starts else "")
        if starts:
            compiler = Compiler(MeshSettings())
        for offset, event in enumerate(batch, 1):
            compiler.fold(event, before + offset, epoch=tip.epoch)
        due -= 1
        if due > 0 and index + 1 < len(batches):
            continue
        commits += 1
        due = together[commits % len(together)]
        commit = compiler.commit(snapshots.published)
        if commit is not None:
            await snapshots.append(commit)
            if commits % keyframe_every == 0:
                await snapshots.append_keyframe()
        compiler.accept()
    return await source_of(logs)


async def source_of(logs: MemoryLogs) -> LogSource:
    """A log in memory as a source of history."""
    names = (STREAMS.events, STREAMS.snapshots, STREAMS.keyframes, STREAMS.status, STREAMS.certs)
    found = [await logs.open(name) for name in names]
    return LogSource(
        about=ABOUT,
        events=found[0],
        snapshots=found[1],
        keyframes=found[2],
        status=found[3],
        certs=found[4],
        writable=found[0],
        pins=await logs.open(STREAMS.pins),
    )


async def exported(source: LogSource, path: Path, **options: int) -> Archive:
    """The same log as a file, opened."""
    await export(source, path, **options)
    return Archive(path)


def contents(snapshot: Snapshot) -> object:
    """What must be equal of equal versions."""
    views = {name: {kind: held for kind, held in view.items() if held} for name, view in snapshot.views.items()}
    return sorted(snapshot.resources), views, snapshot.proxies, snapshot.quarantine, snapshot.mesh_namespaces
