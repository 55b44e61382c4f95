"""Records lost from the middle of the log, after every reader has read them, are detected soon."""

from __future__ import annotations

import logging

import pytest

from services.ingestor.log.chain_position import ChainPosition
from services.ingestor.log.compaction import Compactor
from services.ingestor.log.event_writer import WriterPolicy
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import Extent
from tests.unit.ingestor.log.test_compaction import SCOPE, grown, recovered
from tests.unit.ingestor.log.test_event_writer import agrees
from tests.unit.ingestor.rig import STREAMS, Rig
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually

LOOKS_OFTEN = WriterPolicy(gather=0.5, gather_epoch=0.5, retry=0.005, glance=0.02, scrub=60.0, stand_by=0.02)


@pytest.mark.parametrize("lost", [(2,), (1,), (1, 2), (2, 4), (2, 3, 4)], ids=str)
async def test_what_vanishes_behind_a_leader_is_missed_at_its_next_look(
    lost: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """P11: the end of the log is as it was, and its chain is not due to be read for a long time."""
    server, log = ScriptedServer(), MemoryLog()
    async with Rig(server, log, patience=LOOKS_OFTEN) as rig:
        for name in "abcde":
            server.apply_pod(name)
            await agrees(log, server)
        for sequence in lost:
            log.lose(sequence)
        await eventually(lambda: rig.writer.counts.epochs == 2, within=5, what="a new epoch begins")
        await eventually(lambda: _lives(log, len(server.objects["Pod"])), within=5, what="it says all that lives")
    alarms = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(alarms) == 1
    assert "the log is broken" in alarms[0]


async def _lives(log: MemoryLog, pods: int) -> bool:
    position = await recovered(log)
    return not position.broken and position.index.counts() == {"Pod": pods}


async def test_what_vanished_while_the_log_was_away_is_missed_when_it_is_back() -> None:
    patience = WriterPolicy(gather=0.5, gather_epoch=0.5, retry=0.005, glance=60.0, scrub=60.0, stand_by=0.02)
    server, log = ScriptedServer(), MemoryLog()
    async with Rig(server, log, patience=patience) as rig:
        for name in "abcde":
            server.apply_pod(name)
            await agrees(log, server)
        log.down()
        log.lose(3)
        server.apply_pod("f")
        await eventually(lambda: rig.writer.trouble, within=5, what="it is missed")
        log.up()
        await eventually(lambda: rig.writer.counts.epochs == 2, within=5, what="a new epoch begins")
        await eventually(lambda: _lives(log, len(server.objects["Pod"])), within=5, what="it says all that lives")


async def test_what_is_trimmed_and_what_others_trim_is_no_damage() -> None:
    _, log = await grown()
    position = await recovered(log)
    await Compactor(log, SCOPE, window=20, slack=40).run(position)
    assert not await position.lost_records()
    later = ChainPosition(log, SCOPE, retry=0.01)
    await later.recover()
    log.lose(log.sequences[3])
    assert await later.lost_records()
    assert await later.lost_records(), "until the chain was read"
    await later.read_all()
    assert later.broken
    assert not await later.lost_records()


async def test_another_cluster_of_the_stream_that_trims_costs_one_reading() -> None:
    east, west, log = ScriptedServer(), ScriptedServer(), MemoryLog()
    async with Rig(east, log, cluster="east", patience=LOOKS_OFTEN) as rig, Rig(west, log, name="w", cluster="west"):
        for name in "abc":
            for server in (east, west):
                server.apply_pod(name)
            await eventually(
                lambda want=name: rig.writer.counts.written >= "abc".index(want) + 1, within=5, what="told"
            )
        await eventually(lambda: len(log.sequences) == 6, within=5, what="both have written")
        await log.trim(before=5, subjects=STREAMS.cluster_scope("west"))
        east.apply_pod("d")
        await eventually(lambda: rig.writer.counts.written == 4, within=5, what="it goes on")
        assert rig.writer.counts.epochs == 1


def test_only_less_than_there_was_is_a_loss() -> None:
    before = Extent(first=3, last=9, count=7)
    assert not Extent(first=3, last=20, count=18).lacks(before)
    assert Extent(first=4, last=9, count=6).lacks(before)
    assert Extent(first=3, last=12, count=9).lacks(before)
