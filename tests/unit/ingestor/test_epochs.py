"""Epochs follow each other in the order of their ids, whatever the clocks of their writers show.

An edge that holds an older version compares the ids to find the later of two epochs. One that was begun by a clock
that is behind would count as the older, and its edges would go back.
"""

from __future__ import annotations

from services.compiler.log.snapshot_store import SnapshotStore
from services.ingestor.log.witness import CommitWitness, CompiledPosition
from shared.eventlog.epoch import begins_later, new_epoch
from shared.eventlog.memory import MemoryLog
from shared.records.snapshot import FORMAT, Commit
from shared.streams.memory import MemoryLogs
from tests.unit.ingestor.log.test_event_writer import agrees
from tests.unit.ingestor.rig import STREAMS, Compiled, Rig
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually

EARLY, LATE = 1_800_000_000.0, 1_800_000_300.0


async def epochs(log: MemoryLog) -> list[str]:
    found: list[str] = []
    async for record in log.read():
        if record.epoch not in found:
            found.append(record.epoch)
    return found


async def test_a_clock_that_is_behind_begins_no_earlier_epoch_than_the_log_has() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("web")
    server.apply_pod("api")
    async with Rig(server, log, new_id=lambda: new_epoch(LATE)):
        await agrees(log, server)
    log.lose(2)
    async with Rig(server, log, name="b", new_id=lambda: new_epoch(EARLY)) as rig:
        await eventually(lambda: rig.writer.counts.epochs == 1, within=5, what="a new epoch begins")
        await agrees(log, server)
    first, second = await epochs(log)
    assert begins_later(second, first)


async def test_a_log_that_is_gone_leaves_its_epoch_with_who_read_it() -> None:
    server, log, seconds = ScriptedServer(), MemoryLog(), iter((LATE, EARLY, EARLY))
    server.apply_pod("web")
    async with Rig(server, log, new_id=lambda: new_epoch(next(seconds))) as rig:
        await agrees(log, server)
        (first,) = await epochs(log)
        log.recreate()
        server.apply_pod("api")
        await eventually(lambda: rig.writer.counts.epochs == 2, within=5, what="a new epoch begins")
        await agrees(log, server)
    (second,) = await epochs(log)
    assert begins_later(second, first)


async def test_a_log_that_is_gone_leaves_its_epoch_with_what_was_compiled_from_it() -> None:
    server, log, latest = ScriptedServer(), MemoryLog(), new_epoch(LATE)
    server.apply_pod("web")

    async def witness() -> CompiledPosition:
        return CompiledPosition(7, latest)

    async with Rig(server, log, witness=Compiled(witness), new_id=lambda: new_epoch(EARLY)):
        await agrees(log, server)
    (epoch,) = await epochs(log)
    assert begins_later(epoch, latest)


async def test_commits_and_keyframes_say_of_which_epoch_they_are() -> None:
    logs = MemoryLogs(STREAMS)
    commits, keyframes = logs.stream(STREAMS.snapshots), logs.stream(STREAMS.keyframes)
    assert await CommitWitness(commits, keyframes, STREAMS).compiled() == CompiledPosition()
    snapshots = SnapshotStore(commits, keyframes, STREAMS)
    await snapshots.append(Commit(format=FORMAT, version=3, parent=0, epoch=new_epoch(EARLY, "a"), build="b"))
    await snapshots.append_keyframe()
    await snapshots.append(Commit(format=FORMAT, version=5, parent=3, epoch=new_epoch(LATE, "a"), build="b"))
    assert await CommitWitness(commits, keyframes, STREAMS).compiled() == CompiledPosition(5, new_epoch(LATE, "a"))
    commits.recreate()
    assert await CommitWitness(commits, keyframes, STREAMS).compiled() == CompiledPosition(3, new_epoch(EARLY, "a"))
