"""The two implementations of the log, each handed to every test of this folder."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

import pytest

from shared.eventlog.protocol import EventLog, Logs
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.nats_server import NatsServer, connected, running_nats

Intrude = Callable[..., Awaitable[None]]
"""Writes a record past the client: (stream, subject, payload, headers)."""


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server for all tests; each takes a prefix of its own."""
    with running_nats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def streams() -> Streams:
    """Names that no other test uses."""
    return Streams(prefix=f"m{secrets.token_hex(4)}")


@pytest.fixture(params=["memory", pytest.param("jetstream", marks=pytest.mark.nats)])
async def logs(request: pytest.FixtureRequest, streams: Streams) -> AsyncIterator[Logs]:
    """An implementation of the log, without any stream yet."""
    if request.param == "memory":
        yield MemoryLogs(streams)
        return
    server: NatsServer = request.getfixturevalue("nats_server")
    async with connected(server, streams.prefix) as on_nats:
        yield on_nats


@pytest.fixture
async def log(logs: Logs, streams: Streams) -> EventLog:
    """The stream of events."""
    return await logs.open(streams.events)


@pytest.fixture
async def intrude(logs: Logs, request: pytest.FixtureRequest) -> AsyncIterator[Intrude]:
    """Records as a server stores them of itself, or of who has a right that no writer of ours has."""
    if isinstance(logs, MemoryLogs):

        async def in_memory(
            stream: str, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None
        ) -> None:
            logs.stream(stream).intrude(subject, payload, headers)

        yield in_memory
        return
    import nats

    server: NatsServer = request.getfixturevalue("nats_server")
    client = await nats.connect(server.url)

    async def on_nats(
        _stream: str, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        await client.request(subject, payload, timeout=5, headers=dict(headers) if headers else None)

    yield on_nats
    await client.close()
