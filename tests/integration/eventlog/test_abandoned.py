"""A batch that the server gives up, because it came too slowly or too many were open, never happened (fault 33)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy import nats
from shared.eventlog.chain import ChainVerifier
from shared.eventlog.jetstream.nats_client import Msg
from shared.eventlog.jetstream.nats_connection import NatsSession
from shared.eventlog.jetstream.stream_api import BATCH_ID, BATCH_SEQUENCE
from shared.eventlog.protocol import EMPTY, BatchAbandonedError
from shared.streams.jetstream import JetStreamLogs
from tests.integration.eventlog.test_outages import SCOPE, STREAMS, event
from tests.nats_server import NatsServer, connected
from tests.unit.ingestor.log.test_event_writer import agrees
from tests.unit.ingestor.rig import Rig
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually

pytestmark = pytest.mark.nats

OPEN = 3
"""Batches that this server keeps open for a stream; as it comes: 50, each for 10 s."""


@pytest.fixture
async def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[JetStreamLogs]:
    """A connection to an impatient server."""
    impatience = f"jetstream {{\n  limits {{ batch {{ max_inflight_per_stream: {OPEN}, timeout: 300ms }} }}"

    def render(config: nats.NatsConfig) -> str:
        return nats.render(config).replace("jetstream {", impatience, 1)

    monkeypatch.setattr("tests.nats_server.render", render)
    server = NatsServer(tmp_path)
    server.start()
    try:
        async with connected(server) as opened:
            yield opened
    finally:
        server.kill()


async def advisories(logs: JetStreamLogs) -> list[bytes]:
    """What the server says of batches that it gives up, as it says it."""
    told: list[bytes] = []
    session = await logs._connection.session(within=5)  # pyright: ignore[reportPrivateUsage]

    async def tell(message: Msg) -> None:
        told.append(message.data)

    await session.client.subscribe(f"$JS.EVENT.ADVISORY.STREAM.BATCH_ABANDONED.{STREAMS.events}", cb=tell)
    await session.client.flush()
    return told


def stall(monkeypatch: pytest.MonkeyPatch, told: list[bytes], *, times: int) -> None:
    """The client stops in the middle of its first batches, until the server has lost patience with each."""
    publish, stalled = NatsSession.publish, 0

    async def slowly(
        session: NatsSession, subject: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        nonlocal stalled
        if (headers or {}).get(BATCH_SEQUENCE) == "3" and stalled < times:
            stalled += 1
            await eventually(lambda want=stalled: len(told) >= want, within=5, what="the server gives the batch up")
        await publish(session, subject, payload, reply=reply, headers=headers)

    monkeypatch.setattr(NatsSession, "publish", slowly)


async def test_a_client_that_stalls_in_the_middle_of_a_batch_writes_it_again_and_nothing_twice(
    logs: JetStreamLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, told = await logs.open(STREAMS.events), await advisories(logs)
    server = ScriptedServer(page=50)
    for number in range(8):
        server.apply_pod(f"p{number}")
    stall(monkeypatch, told, times=2)
    async with Rig(server, log) as rig:
        await agrees(log, server)
        assert rig.writer.counts.abandoned == len(told) == 2
        assert rig.writer.counts.epochs == 1
    assert [record.batch async for record in log.read()] == [(number, 8) for number in range(1, 9)]


async def test_while_too_many_batches_are_open_nothing_of_another_is_written(logs: JetStreamLogs) -> None:
    log, told = await logs.open(STREAMS.events), await advisories(logs)
    session = await logs._connection.session(within=5)  # pyright: ignore[reportPrivateUsage]
    for number in range(OPEN):
        headers = {BATCH_ID: f"left-open-{number}", BATCH_SEQUENCE: "1"}
        answer = await session.request(event(f"lost-{number}").subject, b"", within=5, headers=headers)
        assert not answer.data, "a batch is begun"
    with pytest.raises(BatchAbandonedError, match="nothing of it is written"):
        await log.append([event("a"), event("b")], scope=SCOPE, after=EMPTY, epoch="e1")
    assert await log.tip(SCOPE) == EMPTY
    tip = await log.append([event("alone")], scope=SCOPE, after=EMPTY, epoch="e1")
    await eventually(lambda: len(told) == OPEN, within=5, what="those that were left open are given up")
    tip = await log.append([event("a"), event("b")], scope=SCOPE, after=tip)
    records = [record async for record in log.read()]
    assert [record.payload for record in records] == [b"alone", b"a", b"b"]
    verifier = ChainVerifier(EMPTY)
    for record in records:
        verifier.fold(record)
    assert verifier.checkpoint == tip


async def test_an_ingestor_writes_on_once_the_batches_of_others_are_given_up(logs: JetStreamLogs) -> None:
    log, told = await logs.open(STREAMS.events), await advisories(logs)
    session = await logs._connection.session(within=5)  # pyright: ignore[reportPrivateUsage]
    stop = asyncio.Event()

    async def keep_open(number: int) -> None:
        while not stop.is_set():
            headers = {BATCH_ID: f"left-open-{number}-{len(told)}", BATCH_SEQUENCE: "1"}
            seen: Any = len(told)
            await session.request(event(f"lost-{number}").subject, b"", within=5, headers=headers)
            await eventually(lambda seen=seen: len(told) > seen, within=5, what="it is given up")

    others = [asyncio.create_task(keep_open(number)) for number in range(2 * OPEN)]
    server = ScriptedServer(page=50)
    for number in range(5):
        server.apply_pod(f"p{number}")
    async with Rig(server, log) as rig:
        await eventually(lambda: rig.writer.counts.abandoned, within=10, what="a batch is given up")
        stop.set()
        await asyncio.gather(*others)
        await agrees(log, server)
        assert rig.writer.counts.written == 5
