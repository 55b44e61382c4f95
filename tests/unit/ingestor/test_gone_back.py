"""A cluster that went back (restored from a backup, or made anew before an old log) is believed from then on."""

from __future__ import annotations

from shared.eventlog.memory import MemoryLog
from tests.unit.ingestor.log.test_event_writer import agrees
from tests.unit.ingestor.rig import Rig
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually


async def lived() -> MemoryLog:
    """The log of a cluster that came far, with objects that live and one that died at its end."""
    server, log = ScriptedServer(), MemoryLog()
    server.version = 5000
    async with Rig(server, log, name="former"):
        for name in ("a", "b", "c"):
            server.apply_pod(name, uid=f"first-{name}")
        await agrees(log, server)
        server.delete("Pod", "shop", "b")
        await agrees(log, server)
    return log


def young(*names: str) -> ScriptedServer:
    """A cluster with low versions; what it calls as the former did are other objects."""
    server = ScriptedServer()
    for name in names:
        server.apply_pod(name, uid=f"second-{name}", ip="10.9.9.9")
    return server


async def test_what_comes_after_a_cluster_went_back_is_news_under_any_name() -> None:
    """Also under the name of what had died before, by a version that the cluster has not reached again."""
    log, server = await lived(), young("a")
    async with Rig(server, log) as rig:
        await eventually(lambda: "Pod" in rig.writer.settled, within=5, what="it is listed")
        await agrees(log, server)
        for name in ("b", "c", "d"):
            server.apply_pod(name, uid=f"second-{name}")
        server.delete("Pod", "shop", "a")
        await agrees(log, server)


async def test_a_standby_is_ready_before_a_cluster_that_went_back() -> None:
    log, server = await lived(), young("a")
    async with Rig(server, log, name="s", leads=False) as standby:
        async with Rig(server, log, name="l"):
            await agrees(log, server)
            await eventually(lambda: "Pod" in standby.writer.settled, within=5, what="the standby is ready")
            server.apply_pod("b", uid="second-b")
            await agrees(log, server)
        server.apply_pod("c", uid="second-c")
        server.delete("Pod", "shop", "a")
        standby.take_over()
        await agrees(log, server)


async def test_a_restart_before_a_cluster_that_went_back_asks_once_more_and_goes_on() -> None:
    log, server = await lived(), young("a")
    async with Rig(server, log):
        await agrees(log, server)
    for turn in range(3):
        async with Rig(server, log, name=f"again-{turn}") as rig:
            await eventually(lambda: "Pod" in rig.writer.settled, within=5, what="it is listed")
            server.delete("Pod", "shop", "b")
            server.apply_pod("b", uid=f"again-{turn}")
            await agrees(log, server)
            assert rig.writer.counts.doubts <= 2
