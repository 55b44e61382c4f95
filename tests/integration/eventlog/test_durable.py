"""A durable service on a NATS that can lose acknowledged data: exit code 2, one sentence."""

from __future__ import annotations

import asyncio
import sys

import pytest

from shared.errors import BadInputError
from shared.records.subjects import Streams
from shared.streams.jetstream import JetStreamLogs
from shared.streams.specs import StreamSettings
from tests.nats_server import NatsServer, connected

pytestmark = pytest.mark.nats


async def _ended(server: NatsServer, *arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.compiler", "--nats-url", server.url, "--http-port", "0"),
        *("--log-format", "text", *arguments),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, said.decode()


async def test_a_service_refuses_a_server_that_is_alone(server: NatsServer) -> None:
    code, said = await _ended(server, "--durable", "--replicas", "3")
    assert code == 2, said
    assert "can lose acknowledged data: it can have one copy only" in said
    assert "Traceback" not in said


async def test_a_service_refuses_to_make_single_copies(server: NatsServer) -> None:
    code, said = await _ended(server, "--durable")
    assert code == 2, said
    assert "--durable: needs --replicas 3" in said
    assert "Traceback" not in said


async def test_a_stream_that_exists_is_judged_as_the_server_tells_it(server: NatsServer) -> None:
    async with connected(server) as careless:
        await careless.ensure()
    durable = JetStreamLogs.connect(server.access, Streams(), StreamSettings(replicas=1, durable=True))
    try:
        with pytest.raises(BadInputError, match="stream MESH_EVENTS: can lose acknowledged data: it has 1 of 3 copies"):
            await durable.ensure(Streams().events)
    finally:
        await durable.close()
