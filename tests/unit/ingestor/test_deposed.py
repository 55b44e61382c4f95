"""A leader that is deposed while the log is away does not append its round: the round may be older than the log."""

from __future__ import annotations

from collections.abc import Sequence

from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import Checkpoint, Draft, LogUnavailableError
from tests.unit.ingestor.log.test_event_writer import agrees
from tests.unit.ingestor.rig import Rig, history
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually


class Door:
    """One ingestor's way to a shared log: it can be shut for appends."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.shut = False
        self.refused = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    async def append(self, drafts: Sequence[Draft], *, scope: str, after: Checkpoint, epoch: str = "") -> Checkpoint:
        if self.shut:
            self.refused += 1
            raise LogUnavailableError("log/unavailable", "away")
        return await self._log.append(drafts, scope=scope, after=after, epoch=epoch)


async def test_a_round_that_was_kept_while_the_log_was_away_is_not_told_after_another_leads() -> None:
    """`kill -9` of a NATS server under a real mesh: the log kept an endpoint as not ready for ever."""
    server, log = ScriptedServer(), MemoryLog()
    door = Door(log)
    server.apply_pod("a", ip="10.0.0.1")
    async with Rig(server, door, name="x") as deposed, Rig(server, log, name="y", leads=False) as other:  # type: ignore[arg-type]
        await agrees(log, server)
        await eventually(lambda: "Pod" in other.writer.settled, within=5, what="the standby is warm")
        door.shut = True
        server.apply_pod("a", ip="10.0.0.2")
        await eventually(lambda: door.refused, within=5, what="the round is in hand")
        server.apply_pod("a", ip="10.0.0.1")
        seen = other.runners["Pod"].reflector
        await eventually(
            lambda: seen._resource_version == str(server.version),  # pyright: ignore[reportPrivateUsage]
            within=5,
            what="the standby has seen both",
        )
        deposed.leads = False
        other.take_over()
        server.apply_pod("b")
        await agrees(log, server)
        await eventually(lambda: not deposed.writer.trouble, within=5, what="the deposed is a standby, and a ready one")
        door.shut = False
        server.apply_pod("c")
        await agrees(log, server)
        await eventually(
            lambda: "'c'" in str(deposed.writer.index.objects("Pod")), within=5, what="the deposed has read on"
        )
        written = await history(log)
        late = written[[event.name for event in written].index("b") :]
        assert not [event for event in late if event.name == "a"], "what was in hand is the past"
