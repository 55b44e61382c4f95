"""A stream at its limit, and a server at its: what is told, what waits, what goes on (fault 39)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.nats import NatsConfig
from services.ingestor.writer import Patience
from shared.eventlog.jetstream import JetStreamLog, JetStreamLogs
from shared.eventlog.jetstream_api import call
from shared.eventlog.protocol import Draft, LogFullError
from shared.subjects import Streams
from tests.integration.eventlog.test_outages import background, collect, write
from tests.nats_server import NatsServer, connected, free_port
from tests.unit.ingestor.rig import STREAMS, Rig
from tests.unit.ingestor.scripted import ScriptedServer
from tests.unit.ingestor.test_writer import agrees
from tests.waiting import eventually

pytestmark = pytest.mark.nats

QUICK = Patience(gather=0.5, gather_epoch=0.5, retry=0.05, full=0.1, glance=0.2, scrub=60.0, stand_by=0.1)


async def limit(log: JetStreamLog, **limits: int) -> None:
    """What an operator does: `nats stream edit`."""
    line = await log._connection.line(within=5)  # pyright: ignore[reportPrivateUsage]
    config = (await call(line, f"STREAM.INFO.{log.name}"))["config"]
    await call(line, f"STREAM.UPDATE.{log.name}", {**config, **limits}, within=5)


@pytest.mark.parametrize(
    ("limits", "hint"),
    [({"max_bytes": 6_000}, "--max-bytes"), ({"max_msgs": 8}, "--max-msgs")],
    ids=["bytes", "records"],
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


async def test_servers_without_room_are_told_from_a_stream_at_its_limit(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, NatsConfig(port=free_port(), store=str(tmp_path / "data"), max_disk="200KB"))
    server.start()
    try:
        async with connected(server) as logs:
            log, pods = await logs.open(Streams().events), ScriptedServer()
            async with Rig(pods, log, patience=QUICK) as rig:
                for number in range(400):
                    pods.apply_pod(f"p{number}")
                await eventually(lambda: rig.writer.full, within=10, what="the servers have no room")
                assert "insufficient resources" in rig.writer.trouble
                assert "raise max_file_store" in rig.writer.trouble
    finally:
        server.kill()
