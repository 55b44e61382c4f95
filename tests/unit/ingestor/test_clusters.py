"""Several clusters feed one log: each has a chain of its own, and what happens to one is no matter of the other."""

from __future__ import annotations

from shared.eventlog.memory import MemoryLog
from shared.eventlog.trim_marker import with_marks
from tests.unit.ingestor.rig import STREAMS, Rig, history
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually


async def test_two_clusters_write_interleaved_and_neither_refuses_the_other() -> None:
    east, west, log = ScriptedServer(), ScriptedServer(), MemoryLog()
    async with Rig(east, log, name="e", cluster="east") as one, Rig(west, log, name="w", cluster="west") as two:
        for number in range(20):
            east.apply_pod("same", ip=f"10.0.0.{number}")
            west.apply_pod("same", ip=f"10.1.0.{number}")

        async def complete() -> bool:
            told = [await history(log, name) for name in ("east", "west")]
            return all(some and f'.{19}"'.encode() in bytes(some[-1].object or b"") for some in told)

        await eventually(complete, within=5.0, what="both are in the log")
        assert one.writer.counts.refused == two.writer.counts.refused == 0
    clusters = {event.cluster for name in ("east", "west") for event in await history(log, name)}
    assert clusters == {"east", "west"}


async def test_a_chain_that_breaks_begins_an_epoch_of_its_own_cluster_only() -> None:
    east, west, log = ScriptedServer(), ScriptedServer(), MemoryLog()
    for server in (east, west):
        for name in "abc":
            server.apply_pod(name)
    async with Rig(east, log, name="e", cluster="east"):
        await eventually(lambda: _holds(log, "east", 3), within=5.0, what="the first is there")
    async with Rig(west, log, name="w", cluster="west"):
        await eventually(lambda: _holds(log, "west", 3), within=5.0, what="the second is there")
    log.lose(2)
    async with Rig(east, log, name="e2", cluster="east") as again, Rig(west, log, name="w2", cluster="west") as other:
        await eventually(lambda: again.writer.counts.epochs, within=5.0, what="a new epoch begins")
        await eventually(lambda: other.writer.settled >= {"Pod"}, within=5.0, what="the other is settled")
        assert other.writer.counts.written == 0
    assert (await log.tip(STREAMS.cluster_scope("west"))).epoch == with_marks("w1")
    epoch = (await log.tip(STREAMS.cluster_scope("east"))).epoch
    assert epoch == with_marks("e21")
    records = [record async for record in log.read(subjects=STREAMS.cluster_scope("east"))]
    assert sum(record.epoch == epoch for record in records) == 3


async def _holds(log: MemoryLog, cluster: str, count: int) -> bool:
    return len(await history(log, cluster)) == count
