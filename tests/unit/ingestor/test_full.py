"""A full log is reported with its own message, and what waits is appended once there is room."""

from __future__ import annotations

import logging

import pytest

from services.ingestor.log.event_writer import WriterPolicy
from shared.eventlog.memory import MemoryLog
from tests.unit.ingestor.log.test_event_writer import agrees
from tests.unit.ingestor.rig import Rig
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually

QUICK = WriterPolicy(gather=0.5, gather_epoch=0.5, retry=0.005, full=0.01, glance=0.02, scrub=60.0, stand_by=0.02)


async def test_a_full_log_is_said_until_there_is_room_and_nothing_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    server, log = ScriptedServer(), MemoryLog()
    async with Rig(server, log, patience=QUICK) as rig:
        for name in "ab":
            server.apply_pod(name)
            await agrees(log, server)
        held = await log.extent()
        log.max_bytes = sum([len(record.payload) async for record in log.read()]) + 10
        for name in "cdef":
            server.apply_pod(name)
        server.delete("Pod", "shop", "a")
        await eventually(lambda: rig.writer.full, within=5, what="it is said")
        refused = rig.writer.counts.refused
        troubles: set[str] = set()

        def tried_on() -> bool:
            troubles.add(rig.writer.trouble)
            return rig.writer.counts.refused > refused + 5

        await eventually(tried_on, within=5, what="it has tried on")
        assert len(troubles) == 1, "also between two attempts, when the log is read"
        assert "the log is full" in troubles.pop()
        assert await log.extent() == held
        log.max_bytes = 0
        await agrees(log, server)
        await eventually(lambda: not rig.writer.trouble, within=5, what="all is well")
        assert not rig.writer.full
    said = [record for record in caplog.records if "the log is full" in record.getMessage()]
    assert [record.levelno for record in said] == [logging.ERROR], "loudly, and once"
