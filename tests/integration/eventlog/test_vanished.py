"""A server that comes back without records from the midst of the log, which everybody has read already (fault 37)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from services.ingestor.log.chain_position import ChainPosition
from services.ingestor.log.event_writer import WriterPolicy
from shared.eventlog.protocol import EventLog
from shared.streams.jetstream import JetStreamLogs
from tests.integration.eventlog.test_outages import SCOPE, STREAMS
from tests.nats_server import NatsServer
from tests.unit.ingestor.rig import SPLIT, Rig
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually

pytestmark = pytest.mark.nats

PATIENCE = WriterPolicy(gather=0.5, gather_epoch=0.5, retry=0.05, glance=0.2, scrub=600.0, stand_by=0.1)
LARGE = "y" * 700_000
"""So that a few objects fill several of the server's files, of 8 MB each."""


def removed(block: Path) -> None:
    """One file of several is gone."""
    block.unlink()


def flipped(block: Path) -> None:
    """One bit in the middle of a file."""
    content = bytearray(block.read_bytes())
    content[len(content) // 2] ^= 4
    block.write_bytes(content)


@pytest.mark.parametrize("damage", [pytest.param(removed, marks=pytest.mark.long), flipped])
async def test_the_leader_misses_what_a_server_lost_while_it_was_down(
    server: NatsServer,
    logs: JetStreamLogs,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    """No reading of the whole chain is due for ten minutes, and the end of the log is as it was."""
    log, cluster = await logs.open(STREAMS.events), ScriptedServer()
    for number in range(26):
        name = f"s{number:02}"
        meta = {"name": name, "namespace": "shop", "uid": name}
        cluster.apply("TrafficSplit", {"metadata": meta, "spec": {"service": "x", "backends": [], "pad": LARGE}})
    async with Rig(cluster, log, kinds=(SPLIT,), patience=PATIENCE) as rig:
        await eventually(lambda: rig.writer.counts.written == 26, within=20, what="all is written")
        held = await log.extent()
        server.kill()
        blocks = sorted((tmp_path / "data").rglob("*.blk"), key=lambda path: int(path.stem))
        assert len(blocks) >= 3
        damage(blocks[1])
        await asyncio.to_thread(server.start)
        await eventually(lambda: rig.writer.counts.epochs == 2, within=20, what="a new epoch begins")
        await eventually(lambda: _whole(log, 26), within=20, what="it says all that lives")
        assert (await log.bounds())[1] > held.last
    alarms = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
    assert any("the log is broken" in alarm and "lost or changed" in alarm for alarm in alarms)


async def _whole(log: EventLog, objects: int) -> bool:
    position = ChainPosition(log, SCOPE, retry=0.1)
    await position.recover()
    return not position.broken and position.index.counts() == {"TrafficSplit": objects}
