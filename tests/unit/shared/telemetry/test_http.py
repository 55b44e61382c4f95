"""Health and metrics over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from shared.errors import BadInputError
from shared.telemetry.http import HealthServer, Readiness
from shared.telemetry.metrics import Metrics


@pytest.fixture
async def server() -> AsyncIterator[HealthServer]:
    metrics = Metrics()
    made = HealthServer(readiness=Readiness(), metrics=metrics)
    await made.start("127.0.0.1", 0)
    yield made
    await made.stop()
    metrics.close()


async def send(server: HealthServer, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /healthz", "200 OK"),
        ("GET /healthz?verbose", "200 OK"),
        ("HEAD /healthz", "200 OK"),
        ("GET /metrics", "200 OK"),
        ("GET /readyz", "503 Service Unavailable"),
        ("GET /etc/passwd", "404 Not Found"),
        ("POST /healthz", "405 Method Not Allowed"),
    ],
)
async def test_each_path_has_its_status(server: HealthServer, request_line: str, status: str) -> None:
    answer = await send(server, f"{request_line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status}\r\n".encode())
    length = int(next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length")).split(b":")[1])
    assert len(body) == (0 if request_line.startswith("HEAD") else length)


@pytest.mark.parametrize("junk", [b"", b"\r\n\r\n", b"GET\r\n\r\n", b"\xff\x00" * 100, b"x" * 100_000])
async def test_junk_does_not_end_the_server(server: HealthServer, junk: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        await send(server, junk)
    assert (await send(server, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"ok\n")


async def test_an_address_that_is_taken_is_bad_input(server: HealthServer) -> None:
    metrics = Metrics()
    other = HealthServer(readiness=Readiness(), metrics=metrics)
    with pytest.raises(BadInputError, match="--http-port"):
        await other.start("127.0.0.1", server.port)
    metrics.close()


async def test_ready_means_that_every_condition_named_holds() -> None:
    readiness = Readiness()
    assert (readiness.ready, list(readiness.why_not)) == (False, ["started"])
    readiness.set("log", ready=True)
    assert readiness.ready
    readiness.set("keys", ready=False, why="no token issuer yet")
    assert (readiness.ready, readiness.why_not) == (False, {"keys": "no token issuer yet"})
    readiness.set("keys", ready=True)
    assert readiness.ready
    assert json.dumps(readiness.why_not) == "{}"


async def test_a_remark_is_told_and_makes_nothing_unready() -> None:
    readiness, metrics = Readiness(), Metrics()
    server = HealthServer(readiness=readiness, metrics=metrics)

    def told() -> tuple[bool, object]:
        head, _, body = server.answer("GET", "/readyz").partition(b"\r\n\r\n")
        return head.startswith(b"HTTP/1.1 200"), json.loads(body)

    readiness.set("snapshot", ready=True)
    readiness.remark("snapshot", "needs a newer build")
    assert told() == (True, {"ready": True, "why_not": {}, "remarks": {"snapshot": "needs a newer build"}})
    readiness.remark("snapshot", "")
    assert told() == (True, {"ready": True, "why_not": {}})
    metrics.close()
