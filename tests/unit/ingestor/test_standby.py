"""A standby keeps what it learns until the leader has written it, and writes what the leader could not."""

from __future__ import annotations

from shared.eventlog.memory import MemoryLog
from tests.unit.ingestor.rig import Rig, history
from tests.unit.ingestor.scripted import ScriptedServer
from tests.unit.ingestor.test_writer import agrees
from tests.waiting import eventually


async def test_a_standby_writes_nothing_and_is_ready_by_what_the_leader_wrote() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a")
    async with Rig(server, log, name="s", leads=False) as standby:
        await eventually(lambda: server.watches >= 2, within=5, what="its watches are open")
        assert await log.bounds() == (1, 0)
        assert "Pod" not in standby.writer.settled
        async with Rig(server, log, name="l"):
            await agrees(log, server)
            await eventually(lambda: {"Pod", "TrafficSplit"} <= standby.writer.settled, within=5, what="it is ready")
        assert standby.writer.counts.written == 0


async def test_what_the_leader_had_not_written_is_written_by_the_standby() -> None:
    """Also deletions and objects that came again, which only the standby's watch has seen."""
    server, log = ScriptedServer(), MemoryLog()
    for name in ("a", "b", "c"):
        server.apply_pod(name)
    async with Rig(server, log, name="s", leads=False) as standby:
        async with Rig(server, log, name="l"):
            await agrees(log, server)
            await eventually(lambda: "Pod" in standby.writer.settled, within=5, what="the standby is warm")
        lists = server.lists
        server.delete("Pod", "shop", "a")
        server.delete("Pod", "shop", "b")
        server.apply_pod("b", uid="another")
        server.apply_pod("d")
        standby.take_over()
        await agrees(log, server)
        assert server.lists == lists, "nothing was listed for it"
        assert len(await history(log)) == 3 + 1 + 2 + 1


async def test_two_leaders_at_once_do_no_harm() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a")
    async with Rig(server, log, name="x") as one, Rig(server, log, name="y", leads=False) as two:
        await agrees(log, server)
        for number in range(20):
            server.apply_pod(f"p{number}")
            if number == 5:
                two.take_over()
        await agrees(log, server)
        assert one.writer.counts.written + two.writer.counts.written == 21


async def test_a_standby_that_takes_over_a_broken_log_begins_a_new_epoch() -> None:
    server, log = ScriptedServer(), MemoryLog()
    for name in ("a", "b", "c"):
        server.apply_pod(name)
    async with Rig(server, log, name="s", leads=False) as standby:
        async with Rig(server, log, name="l"):
            await agrees(log, server)
            await eventually(lambda: "Pod" in standby.writer.settled, within=5, what="the standby is warm")
        log.roll_back(2)
        standby.take_over()
        await agrees(log, server)
        assert standby.writer.counts.epochs == 1
