"""A server of the log at the limit of what it may store: below its disk's size, as the chart sets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.nats import NatsConfig
from shared.eventlog.jetstream.event_log import JetStreamLog
from shared.eventlog.protocol import Draft, LogUnavailableError
from shared.records.subjects import Streams
from tests.integration.eventlog.test_outages import SCOPE, event
from tests.nats_server import NatsServer, connected
from tests.ports import free_port

pytestmark = pytest.mark.nats


async def write(log: JetStreamLog, *, records: int) -> None:
    """So many records of 100 kB."""
    tip = await log.tip(SCOPE)
    for number in range(records):
        draft = Draft(event(f"p{number}").subject, b"x" * 100_000)
        tip = await log.append([draft], scope=SCOPE, after=tip, epoch="" if tip.epoch else "e1")


async def test_at_its_limit_a_server_refuses_loudly_loses_nothing_and_takes_more_once_there_is_room(
    tmp_path: Path,
) -> None:
    """Unlike one whose disk is full: that switches its storage off, until it is started anew."""
    server = NatsServer(tmp_path, NatsConfig(port=free_port(), store=str(tmp_path / "data"), max_disk="1M"))
    server.start()
    try:
        async with connected(server) as logs:
            log = await logs.open(Streams().events)
            with pytest.raises(LogUnavailableError, match="insufficient resources"):
                await write(log, records=20)
            tip = await log.tip(SCOPE)
            assert 5 < tip.sequence < 11
            assert [record.sequence async for record in log.read()] == list(range(1, tip.sequence + 1))
            await log.trim(before=tip.sequence)
            assert (await log.append([event("after")], scope=SCOPE, after=tip)).sequence == tip.sequence + 1
    finally:
        server.stop()
