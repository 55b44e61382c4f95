"""Two builds of the compiler as processes on a real nats-server: the log holds what only the newer one can read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import urllib.error
import urllib.request
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.compiler.log.snapshot_store import SnapshotStore
from shared.build import VERSION
from shared.eventlog.protocol import EMPTY, Draft
from shared.records import events
from shared.records.events import Event
from shared.records.snapshot import Snapshot
from shared.records.subjects import Streams
from shared.streams.jetstream import JetStreamLogs
from tests.nats_server import NatsServer, connected, running_nats
from tests.ports import free_port
from tests.unit.compiler import objects
from tests.waiting import eventually

pytestmark = pytest.mark.nats

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope(objects.CLUSTER)
OLD = "import sys; from services.compiler.__main__ import main; sys.exit(main(sys.argv[1:]))"
NEW = (
    "import shared.build, shared.records.events; shared.build.VERSION = '9.0.0'; shared.records.events.SCHEMA += 1; "
    + OLD
)
"""The next build, as far as its name and the events that it reads are concerned."""


class Compiler:
    """One process."""

    def __init__(self, process: Process, port: int, log: Path) -> None:
        self.process = process
        self.log = log
        self._port = port

    async def readyz(self) -> dict[str, Any]:
        """What it says of itself."""

        def get() -> bytes:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=2) as answer:
                    return answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.read()

        return json.loads(await asyncio.to_thread(get))

    async def is_ready(self) -> None:
        async def probe() -> bool:
            return bool((await self.readyz())["ready"])

        await eventually(probe, within=20, what="the compiler is ready")

    async def ends(self) -> None:
        assert self.process.returncode is None, self.log.read_text()
        self.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(self.process.wait(), 10) == 0
        assert "Traceback" not in self.log.read_text()


@contextlib.asynccontextmanager
async def compiler(server: NatsServer, program: str, directory: Path, name: str) -> AsyncGenerator[Compiler]:
    port, log = free_port(), directory / f"{name}.log"
    flags = ["--nats-url", server.url, "--cluster", objects.CLUSTER, "--http-port", str(port), "--instance", name]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, *flags, stdout=output, stderr=output
        )
    try:
        yield Compiler(process, port, log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def write(logs: JetStreamLogs, written: Sequence[Event]) -> None:
    log = await logs.open(STREAMS.events)
    tip = await log.tip(SCOPE)
    drafts = [Draft(event.subject(STREAMS), events.encode(event)) for event in written]
    await log.append(drafts, scope=SCOPE, after=tip, epoch="e1" if tip == EMPTY else "")


async def published(logs: JetStreamLogs) -> Snapshot:
    snapshots = SnapshotStore(await logs.open(STREAMS.snapshots), await logs.open(STREAMS.keyframes), STREAMS)
    await snapshots.load()
    return snapshots.published


async def test_the_older_build_stands_aside_and_the_newer_one_leads(tmp_path: Path) -> None:
    mesh = objects.bookstore()
    newer = msgspec.structs.replace(objects.answered_at(8157), schema=events.SCHEMA + 1)
    with running_nats(tmp_path) as server:
        async with connected(server) as logs:

            async def reached(version: int, build: str) -> bool:
                found = await published(logs)
                return (found.version, found.build) == (version, build)

            await write(logs, mesh)
            async with compiler(server, OLD, tmp_path, "old") as old:
                await old.is_ready()
                await eventually(lambda: reached(len(mesh), VERSION), within=10, what="the old one leads and publishes")
                good = await published(logs)
                await write(logs, [newer])

                async def says() -> str:
                    why = (await old.readyz())["why_not"].get("events", "")
                    return why if "newer" in why else ""

                expected = f"needs a newer build: event {len(mesh) + 1} has schema {events.SCHEMA + 1}, "
                why = await eventually(says, within=10, what="the old one says what it needs")
                assert why == f"{expected}this build reads up to {events.SCHEMA}"
                assert (await published(logs)).keyframe() == good.keyframe(), "what was good stays in force"
                async with compiler(server, NEW, tmp_path, "new") as new:
                    await new.is_ready()
                    await eventually(
                        lambda: reached(len(mesh) + 1, "9.0.0"), within=10, what="the new one leads and publishes"
                    )
                    assert not (await old.readyz())["ready"]
                    await new.ends()
                await old.ends()
