"""The compiler as a process of its own on a real nats-server: it is killed, and continues."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from services.compiler.core.offline import compile_events
from services.compiler.log.snapshot_store import SnapshotStore
from shared.eventlog.protocol import EMPTY, Draft, LogUnavailableError
from shared.records import events
from shared.records.events import Event
from shared.records.snapshot import Snapshot
from shared.records.subjects import Streams
from shared.streams.jetstream import JetStreamLogs
from tests.nats_server import NatsServer, connected, running_nats
from tests.unit.compiler import objects
from tests.waiting import eventually

pytestmark = pytest.mark.nats

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope(objects.CLUSTER)


async def write(logs: JetStreamLogs, written: Sequence[Event]) -> None:
    log = await logs.open(STREAMS.events)
    drafts = [Draft(subject=event.subject(STREAMS), payload=events.encode(event)) for event in written]
    tip = await log.tip(SCOPE)
    await log.append(drafts, scope=SCOPE, after=tip, epoch="e1" if tip == EMPTY else "")


async def accepted(logs: JetStreamLogs, event: Event) -> bool:
    with contextlib.suppress(LogUnavailableError):
        await write(logs, [event])
        return True
    return False


async def published(logs: JetStreamLogs) -> Snapshot:
    snapshots = SnapshotStore(await logs.open(STREAMS.snapshots), await logs.open(STREAMS.keyframes), STREAMS)
    await snapshots.load()
    return snapshots.published


@contextlib.asynccontextmanager
async def compiler(server: NatsServer, log: Path) -> AsyncGenerator[Process, None]:
    flags = ["--nats-url", server.url, "--cluster", objects.CLUSTER, "--http-port", "0", "--instance", "compiler-1"]
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.compiler", *flags, stderr=output, stdout=output, env={**os.environ}
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def resident_mb(process: Process) -> float:
    pages = int(Path(f"/proc/{process.pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def test_a_killed_compiler_continues_where_it_was(tmp_path: Path) -> None:
    log = tmp_path / "compiler.log"
    mesh = objects.bookstore()
    change = objects.split("store", "canary", root="store", backends={"store-v1": 0, "store-v2": 1})

    with running_nats(tmp_path) as server:
        async with connected(server) as logs:

            async def reaches(version: int) -> bool:
                return (await published(logs)).version == version

            await write(logs, mesh)
            async with compiler(server, log) as first:
                await eventually(lambda: reaches(len(mesh)), within=20, what="the mesh is published")
                assert resident_mb(first) < 110
                first.send_signal(signal.SIGKILL)
                await first.wait()
            before = await (await logs.open(STREAMS.snapshots)).bounds()
            await write(logs, [change])
            async with compiler(server, log) as second:
                await eventually(lambda: reaches(len(mesh) + 1), within=20, what="the change is published")
                server.kill()
                server.start()
                await eventually(
                    lambda: accepted(logs, objects.deleted("TrafficSplit", "store", "canary")),
                    within=10,
                    what="the log takes events again",
                )
                await eventually(lambda: reaches(len(mesh) + 2), within=20, what="what came after an outage")
                second.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(second.wait(), 10) == 0
            after = await (await logs.open(STREAMS.snapshots)).bounds()
            final = await published(logs)
    assert after[1] - before[1] == 2
    expected = compile_events([*mesh, change, objects.deleted("TrafficSplit", "store", "canary")])
    assert {key: resource.body for key, resource in final.resources.items()} == {
        key: resource.body for key, resource in expected.resources.items()
    }
    assert final.views == expected.views
