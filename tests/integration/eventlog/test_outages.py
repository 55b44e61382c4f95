"""The log while its server is killed, comes late, is made anew or loses what it had acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from shared.eventlog.chain import ChainVerifier
from shared.eventlog.jetstream.stream_api import call
from shared.eventlog.protocol import (
    EMPTY,
    ChainBrokenError,
    Checkpoint,
    Draft,
    DuplicateError,
    EventLog,
    LogUnavailableError,
    Record,
    StaleWriterError,
)
from shared.records.certificate_records import SigningRequest, decode_request, encode
from shared.records.subjects import Streams
from shared.streams.jetstream import JetStreamLogs
from tests.nats_server import NatsServer, connected
from tests.waiting import eventually

pytestmark = pytest.mark.nats

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope("c1")


def event(name: str, message_id: str = "") -> Draft:
    return Draft(STREAMS.event_subject("c1", "Pod", "shop", name), name.encode(), message_id)


async def write(log: EventLog, *names: str, epoch: str = "") -> Checkpoint:
    tip = await log.tip(SCOPE)
    return await log.append(
        [event(n) for n in names], scope=SCOPE, after=tip, epoch=epoch or ("" if tip.epoch else "e1")
    )


async def write_once(log: EventLog, *names: str) -> None:
    """Write a batch through any outage: what a careful writer does."""
    while True:
        try:
            tip = await log.tip(SCOPE)
            last = await log.last(event(names[-1]).subject)
            if last is not None:
                return
            await log.append(
                [event(n, f"id-{n}") for n in names], scope=SCOPE, after=tip, epoch="" if tip.epoch else "e1"
            )
        except (StaleWriterError, DuplicateError):
            continue
        except LogUnavailableError:
            await asyncio.sleep(0.02)
        else:
            return


@contextlib.asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncGenerator[asyncio.Task[None], None]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def collect(log: EventLog, into: list[Record], **where: Any) -> None:
    async for record in log.follow(**where):
        into.append(record)  # noqa: PERF401 (it never ends, and is looked at in between)


async def test_a_server_killed_during_appends_has_each_record_once_and_followers_miss_none(
    server: NatsServer, logs: JetStreamLogs
) -> None:
    log = await logs.open(STREAMS.events)
    followed: list[Record] = []
    count = 90

    async def work() -> None:
        for number in range(0, count, 3):
            if number % 2:
                await write_once(log, f"n{number}", f"n{number + 1}", f"n{number + 2}")
            else:
                for one in range(number, number + 3):
                    await write_once(log, f"n{one}")

    async with background(collect(log, followed)), background(work()) as working:
        for kill in (10, 30, 60):
            await eventually(lambda kill=kill: len(followed) > kill, within=10, what=f"{kill} records are followed")
            server.kill()
            await asyncio.to_thread(server.start)
        await asyncio.wait_for(working, 20)
        await eventually(lambda: len(followed) >= count, within=10, what="all records are followed")
    assert [record.payload.decode() for record in followed] == [f"n{number}" for number in range(count)]
    verifier = ChainVerifier(EMPTY)
    for record in followed:
        verifier.fold(record)
    assert verifier.checkpoint == await log.tip(SCOPE)


async def test_publishing_waits_out_a_restart_and_writes_once(server: NatsServer, logs: JetStreamLogs) -> None:
    log = await logs.open(STREAMS.status)
    subject = STREAMS.status_subject("c1", "shop", "p")
    await log.publish(Draft(subject, b"0"))
    server.kill()
    publishing = [asyncio.create_task(log.publish(Draft(subject, b"1", f"m{i % 2}"))) for i in range(4)]
    await asyncio.to_thread(server.start)
    assert sorted(await asyncio.wait_for(asyncio.gather(*publishing), 15)) == [2, 2, 3, 3]


async def test_calls_fail_soon_while_the_server_is_down(server: NatsServer, logs: JetStreamLogs) -> None:
    log = await logs.open(STREAMS.events)
    asking = asyncio.create_task(log.tip(SCOPE))
    await asking
    server.kill()
    with pytest.raises(LogUnavailableError):
        await asyncio.wait_for(log.tip(SCOPE), 7)
    assert not logs.connected


async def test_the_log_may_come_later_than_its_users_who_say_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = NatsServer(tmp_path)
    caplog.set_level(logging.INFO, "shared.eventlog")
    async with connected(server) as logs:
        opening = asyncio.create_task(logs.open(STREAMS.events))
        await eventually(lambda: caplog.records, within=5, what="the first failure is logged")
        await asyncio.to_thread(server.start)
        try:
            log = await asyncio.wait_for(opening, 10)
            assert (await write(log, "a")).sequence == 1
        finally:
            server.kill()
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "cannot be reached" in warnings[0].getMessage()
    assert sum("cannot be reached" in record.getMessage() for record in warnings) == 1


async def test_jobs_outlive_the_server_and_the_taker(server: NatsServer, logs: JetStreamLogs) -> None:
    queue = await logs.open(STREAMS.csrs)
    done: list[str] = []

    async def work() -> None:
        async for job in queue.take("ca"):
            done.append(decode_request(job.record.payload).id)
            await job.done()

    await queue.publish(_asked("1"))
    async with background(work()):
        await eventually(lambda: done, within=5, what="the first job is done")
        server.kill()
        await asyncio.to_thread(server.start)
        await queue.publish(_asked("2"))
        await eventually(lambda: "2" in done, within=10, what="a job after the restart is done")


def _asked(request: str) -> Draft:
    one = SigningRequest(request, "edge", b"csr", "key", b"token", "c1", "spiffe://cluster.local/ns/a/sa/b")
    return Draft(STREAMS.csr_subject("edge"), encode(one))


async def test_a_stream_made_anew_is_followed_from_its_beginning(server: NatsServer, logs: JetStreamLogs) -> None:
    log = await logs.open(STREAMS.events)
    followed: list[Record] = []
    async with background(collect(log, followed)):
        await write(log, "a", "b", "c")
        await eventually(lambda: len(followed) == 3, within=5, what="the old stream is followed")
        session = await log._connection.session(within=5)  # pyright: ignore[reportPrivateUsage]
        await call(session, log.name, f"STREAM.DELETE.{log.name}")
        with pytest.raises(LogUnavailableError):
            await log.append([event("x")], scope=SCOPE, after=EMPTY, epoch="e2")
        await write(log, "a", "b", epoch="e2")
        await eventually(lambda: len(followed) == 5, within=15, what="the new stream is followed")
    assert [record.sequence for record in followed] == [1, 2, 3, 1, 2]
    verifier = ChainVerifier(EMPTY)
    assert [verifier.fold(record) for record in followed] == [True, False, False, True, False]


async def test_a_hole_is_found_by_who_reads_again(logs: JetStreamLogs) -> None:
    log = await logs.open(STREAMS.events)
    for name in "abc":
        await write(log, name)
    checkpoint = await write(log, "d")
    session = await log._connection.session(within=5)  # pyright: ignore[reportPrivateUsage]
    await call(session, log.name, f"STREAM.MSG.DELETE.{log.name}", {"seq": 2})
    verifier = ChainVerifier(EMPTY)
    records = [record async for record in log.read()]
    verifier.fold(records[0])
    with pytest.raises(ChainBrokenError, match="lost or changed"):
        verifier.fold(records[1])
    assert verifier.checkpoint.sequence == 1
    assert await log.tip(SCOPE) == checkpoint


@pytest.mark.parametrize("regrown", [0, 1, 3], ids=["shorter", "as long", "longer"])
async def test_a_log_that_lost_acknowledged_records_is_noticed(
    server: NatsServer, logs: JetStreamLogs, tmp_path: Path, regrown: int
) -> None:
    """The data directory goes back to an earlier state, as a corrupt block makes it."""
    log = await logs.open(STREAMS.events)
    followed: list[Record] = []
    async with background(collect(log, followed)) as following:
        await write(log, "a", "b")
        server.stop()
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
        await asyncio.to_thread(server.start)
        await eventually(lambda: logs.connected, within=5, what="the connection is back")
        lost = await write(log, "c")
        await eventually(lambda: len(followed) == 3, within=5, what="the record that will be lost is followed")
        server.kill()
        shutil.rmtree(tmp_path / "data")
        shutil.copytree(tmp_path / "copy", tmp_path / "data")
        await asyncio.to_thread(server.start)
        async with connected(server) as others:
            other = await others.open(STREAMS.events)
            for number in range(regrown):
                await write(other, f"new-{number}")
        if regrown < 2:
            with pytest.raises(ChainBrokenError):
                await asyncio.wait_for(following, 10)
        else:
            await eventually(lambda: following.done() or len(followed) > 3, within=10, what="the follower goes on")
            with pytest.raises(ChainBrokenError):
                verify(followed, following)
        if regrown == 1:
            # The sequence is right by chance, so the writer passes; the chain tells every reader.
            await log.append([event("d")], scope=SCOPE, after=lost)
            with pytest.raises(ChainBrokenError):
                verify([record async for record in log.read()], following)
        else:
            with pytest.raises(StaleWriterError):
                await log.append([event("d")], scope=SCOPE, after=lost)


def verify(followed: list[Record], following: asyncio.Task[None]) -> None:
    """Fold what was followed; then, what the follower itself noticed."""
    verifier = ChainVerifier(EMPTY)
    for record in followed:
        verifier.fold(record)
    if following.done():
        following.result()


async def test_a_slow_reader_of_a_long_log_gets_all_of_it_in_order(logs: JetStreamLogs) -> None:
    log = await logs.open(STREAMS.events)
    tip = EMPTY
    drafts = [Draft(STREAMS.event_subject("c1", "Pod", "shop", str(n)), bytes(2000)) for n in range(1000)]
    for _ in range(5):
        tip = await log.append(drafts, scope=SCOPE, after=tip, epoch="" if tip.epoch else "e1")
    verifier = ChainVerifier(EMPTY)
    async for record in log.read():
        verifier.fold(record)
        if record.sequence % 100 == 0:
            await asyncio.sleep(0.001)
    assert verifier.checkpoint == tip
