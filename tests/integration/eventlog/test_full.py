"""A stream at its limit, and a server at its: what is told, what waits, what goes on (fault 39)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deploy.nats import NatsConfig
from services.ingestor.log.event_writer import WriterPolicy
from shared.eventlog.jetstream.event_log import JetStreamLog
from shared.eventlog.jetstream.stream_api import call
from shared.eventlog.protocol import EMPTY, Draft, LogFullError
from shared.streams.jetstream import JetStreamLogs
from tests.integration.eventlog.test_outages import background, collect, write
from tests.nats_server import NatsServer, connected
from tests.ports import free_port
from tests.unit.ingestor.log.test_event_writer import agrees
from tests.unit.ingestor.rig import STREAMS, Rig
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually

pytestmark = pytest.mark.nats

QUICK = WriterPolicy(gather=0.5, gather_epoch=0.5, retry=0.05, full=0.1, glance=0.2, scrub=60.0, stand_by=0.1)


async def limit(log: JetStreamLog, **limits: int) -> None:
    """What an operator does: `nats stream edit`."""
    session = await log._connection.session(within=5)  # pyright: ignore[reportPrivateUsage]
    config = (await call(session, log.name, f"STREAM.INFO.{log.name}"))["config"]
    await call(session, log.name, f"STREAM.UPDATE.{log.name}", {**config, **limits}, within=5)


@pytest.mark.parametrize(
    ("limits", "hint"),
    [({"max_bytes": 6_000}, "--max-bytes"), ({"max_msgs": 8}, "--max-msgs"), ({"max_msg_size": 1}, "--max-msg-size")],
    ids=["bytes", "records", "bytes of a record"],
)
async def test_changes_wait_at_a_full_stream_which_is_named_and_arrive_once_its_limit_is_raised(
    logs: JetStreamLogs, limits: dict[str, int], hint: str
) -> None:
    log = await logs.open(STREAMS.events)
    await limit(log, **limits)
    server = ScriptedServer()
    followed: list[Any] = []
    async with Rig(server, log, patience=QUICK) as rig, background(collect(log, followed)):
        for number in range(30):
            server.apply_pod(f"p{number}")
        server.delete("Pod", "shop", "p0")
        await eventually(lambda: rig.writer.full, within=10, what="the log is full")
        refused, (name, value) = rig.writer.counts.refused, next(iter(limits.items()))
        await eventually(lambda: rig.writer.counts.refused > refused + 3, within=10, what="it tries on")
        for said in (STREAMS.events, "the log is full", f"{name} is {value:,}", hint, "none is lost"):
            assert said in rig.writer.trouble
        held = await log.extent()
        assert (held.first, held.gaps) == (1, 0), "nothing makes room for what is new"
        await eventually(lambda: len(followed) == held.count, within=5, what="what serves reads on")
        await limit(log, **{name: -1})
        await agrees(log, server)
        await eventually(lambda: not rig.writer.trouble, within=5, what="all is well")
        assert rig.writer.counts.epochs == 1


async def test_one_record_is_refused_by_a_full_stream_as_a_batch_is(logs: JetStreamLogs) -> None:
    log = await logs.open(STREAMS.events)
    await write(log, "a")
    await limit(log, max_bytes=1_000)
    tip, scope = await log.tip(STREAMS.cluster_scope("c1")), STREAMS.cluster_scope("c1")
    for count in (1, 2):
        drafts = [Draft(STREAMS.event_subject("c1", "Pod", "shop", f"p{n}"), bytes(1_000)) for n in range(count)]
        with pytest.raises(LogFullError, match=r"MESH_EVENTS: the log is full \(maximum bytes exceeded\)"):
            await log.append(drafts, scope=scope, after=tip)
    assert await log.tip(scope) == tip


@pytest.mark.parametrize("limits", [{"max_bytes": 1_000}, {"max_msg_size": 1}], ids=["bytes", "bytes of a record"])
async def test_a_record_outside_of_every_chain_is_refused_at_once(logs: JetStreamLogs, limits: dict[str, int]) -> None:
    """Its writer has to say that it cannot write; other outages are waited out for some seconds."""
    log = await logs.open(STREAMS.certs)
    await limit(log, **limits)
    async with asyncio.timeout(1):
        with pytest.raises(LogFullError, match=f"{STREAMS.certs}: the log is full"):
            await log.publish(Draft(STREAMS.audit_subject("log"), bytes(2_000)))


@contextlib.asynccontextmanager
async def small(directory: Path) -> AsyncGenerator[tuple[NatsServer, JetStreamLog]]:
    """A server that may store little, and its log of events."""
    server = NatsServer(directory, NatsConfig(port=free_port(), store=str(directory / "data"), max_disk="200KB"))
    server.start()
    try:
        async with connected(server) as logs:
            yield server, await logs.open(STREAMS.events)
    finally:
        server.kill()


async def test_servers_without_room_are_told_from_a_stream_at_its_limit(tmp_path: Path) -> None:
    async with small(tmp_path) as (_, log):
        with pytest.raises(LogFullError, match=r"full \(insufficient resources\).*raise max_file_store"):
            await fill(log)
        assert (await log.extent()).count > 5


async def fill(log: JetStreamLog) -> None:
    """Records of 10 kB, one by one, until there is no room."""
    tip, scope = EMPTY, STREAMS.cluster_scope("c1")
    for number in range(50):
        draft = Draft(STREAMS.event_subject("c1", "Pod", "shop", f"p{number}"), bytes(10_000))
        tip = await log.append([draft], scope=scope, after=tip, epoch="" if tip.epoch else "e1")


@pytest.mark.long
async def test_a_batch_that_met_the_limit_of_a_server_half_way_is_completed_once_there_is_room(tmp_path: Path) -> None:
    """A server that runs out of storage in the middle of an atomic batch keeps what it has written, and is silent."""
    async with small(tmp_path) as (server, log):
        pods = ScriptedServer(page=500)
        for number in range(400):
            pods.apply_pod(f"p{number}")
        async with Rig(pods, log, patience=QUICK) as rig:
            await eventually(lambda: rig.writer.full, within=20, what="the servers have no room")
            assert 0 < (await log.extent()).count < 400
            server.stop()
            server.config = msgspec.structs.replace(server.config, max_disk="20MB")
            await asyncio.to_thread(server.start)
            await agrees(log, pods)
            assert rig.writer.counts.epochs <= 1
    async with contextlib.AsyncExitStack() as stack:
        server.start()
        stack.callback(server.kill)
        logs = await stack.enter_async_context(connected(server))
        subjects = [record.subject async for record in (await logs.open(STREAMS.events)).read()]
    assert len(subjects) == len(set(subjects)) == 400, "each once"
