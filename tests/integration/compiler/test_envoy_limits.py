"""What a stranger, or one caller of many, can cost a real sidecar: connections, handshakes, streams."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, ResponseReceived, StreamEnded, StreamReset

from tests.attacks.sidecar import asked, stalled, trusting_nobody
from tests.integration.compiler.called import Called, called
from tests.unit.compiler import objects

pytestmark = pytest.mark.envoy

OPEN = objects.route_group("store", "routes", {"name": "browse", "pathRegex": "/.*"})
LARGE = 24 * 1024 * 1024
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def upgraded(pod: Called, context: ssl.SSLContext) -> AsyncGenerator[Streams]:
    """A WebSocket through the sidecar."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.port, ssl=context, server_hostname="any")
    lines = ("GET /socket HTTP/1.1", "host: any", "connection: upgrade", "upgrade: WebSocket", "", "")
    writer.write("\r\n".join(lines).encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 101"), head
    yield reader, writer
    writer.close()


async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An application that answers requests, and echoes what comes after an upgrade."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"upgrade: WebSocket" not in head:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                continue
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            while data := await reader.read(100):
                writer.write(data)
    writer.close()


async def assert_stalled_handshakes_end(directory: Path, connections: int, *, handshake: float | None) -> None:
    """They end in time, requests of members are answered meanwhile, and what was open before stays open."""
    async with called(directory, [OPEN], serve=echoes, handshake=handshake) as pod:
        context = trusting_nobody(*pod.caller("buy", "thief"))
        async with upgraded(pod, context) as (reader, writer):
            patience = 3 * (handshake or 10)
            flood = asyncio.create_task(stalled("127.0.0.1", pod.port, connections=connections, seconds=patience))
            answers: list[str] = []
            while not flood.done():
                answers.append((await asked("127.0.0.1", pod.port, context, "/x"))[0])
                await asyncio.wait([flood], timeout=0.1)
            writer.write(b"still there")
            assert await asyncio.wait_for(reader.readexactly(11), 5) == b"still there"
    _, kept = flood.result()
    assert len(kept) == connections
    assert max(kept) < 2 * (handshake or 10), "a handshake that stalls is ended"
    assert set(answers) == {"200"}


async def test_stalled_handshakes_end_and_members_notice_nothing(tmp_path: Path) -> None:
    """With a shorter time-out than sidecars are told, so that the test need not wait for ten seconds."""
    await assert_stalled_handshakes_end(tmp_path, 300, handshake=1.0)


@pytest.mark.long
async def test_two_thousand_stalled_handshakes_end_after_ten_seconds(tmp_path: Path) -> None:
    await assert_stalled_handshakes_end(tmp_path, 2000, handshake=None)


async def test_sidecars_are_told_to_end_stalled_handshakes_and_no_stream(tmp_path: Path) -> None:
    async with called(tmp_path, [OPEN]) as pod:
        (listener,) = pod.config.static_resources.listeners
        assert listener.listener_filters_timeout.seconds == 10
        assert not listener.continue_on_listener_filters_timeout
        chains = [chain for chain in listener.filter_chains if chain.name != "never"]
        assert {chain.transport_socket_connect_timeout.seconds for chain in chains} == {10}


class Http2:
    """A connection that speaks HTTP/2, as either side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, client: bool) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = H2Connection(H2Configuration(client_side=client))
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    async def events(self) -> AsyncGenerator[object]:
        """What comes, until the other side ends. The reader decides what is given back to windows."""
        while data := await self.reader.read(65536):
            for event in self.h2.receive_data(data):
                yield event
            self.flush()


async def answers_at_length(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An HTTP/2 application: `/large` answers with 24 MiB, `/hold` never ends its answer, all else is small."""
    connection = Http2(reader, writer, client=False)
    left: dict[int, int] = {}

    def send() -> None:
        for stream in list(left):
            while left[stream] and (room := connection.h2.local_flow_control_window(stream)):
                size = min(room, left[stream], 16384)
                connection.h2.send_data(stream, b"x" * size)
                left[stream] -= size
        connection.flush()

    with contextlib.suppress(OSError):
        async for event in connection.events():
            if isinstance(event, RequestReceived):
                path, stream = dict(event.headers)[b":path"], event.stream_id
                small = path not in {b"/large", b"/hold"}
                connection.h2.send_headers(stream, [(":status", "200")], end_stream=small)
                if path == b"/large":
                    left[stream] = LARGE
            elif isinstance(event, StreamReset):
                left.pop(event.stream_id, None)
            send()
    writer.close()


async def member(pod: Called, account: str) -> Http2:
    context = trusting_nobody(*pod.caller("buy", account))
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.port, ssl=context, server_hostname="any")
    return Http2(reader, writer, client=True)


def ask(connection: Http2, path: str) -> int:
    """Begin a request."""
    stream = connection.h2.get_next_available_stream_id()
    headers = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "any")]
    connection.h2.send_headers(stream, headers, end_stream=True)
    return stream


async def answered(connection: Http2, wanted: set[int], *, ended: bool) -> None:
    """Wait until these streams have an answer (or its end), reading nothing that is not needed for it."""
    kind = StreamEnded if ended else ResponseReceived
    async for event in connection.events():
        if isinstance(event, kind):
            wanted.discard(event.stream_id or 0)
        if not wanted:
            return
    raise AssertionError(f"{len(wanted)} streams had no answer")


async def test_a_caller_that_does_not_read_its_answers_stops_no_other_caller(tmp_path: Path) -> None:
    """All callers share the sidecar's connection to the application, and with it the window of that connection."""
    async with called(tmp_path, [OPEN], serve=answers_at_length) as pod:
        lazy = await member(pod, "thief")
        streams = {ask(lazy, "/large") for _ in range(8)}
        lazy.flush()
        async with asyncio.timeout(20):
            await answered(lazy, set(streams), ended=False)
        # Its windows are full by now: nothing of the bodies was given back to them.
        other = await member(pod, "buyer")
        for _ in range(5):
            wanted = {ask(other, "/books")}
            other.flush()
            async with asyncio.timeout(5):
                await answered(other, wanted, ended=True)
        large = {ask(other, "/large")}
        other.flush()
        received = 0
        async with asyncio.timeout(20):
            async for event in other.events():
                if isinstance(event, DataReceived):
                    received += len(event.data or b"")
                    if event.flow_controlled_length and event.stream_id:
                        other.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                        other.flush()
                if received >= LARGE:
                    break
        assert large
        lazy.writer.close()
        other.writer.close()


async def test_more_long_streams_than_one_connection_may_have_are_all_answered(tmp_path: Path) -> None:
    """A connection takes 256 streams; to the application the sidecar opens another, so that none waits for an end."""
    async with called(tmp_path, [OPEN], serve=answers_at_length) as pod:
        connections = [await member(pod, "thief") for _ in range(3)]
        for connection in connections:
            streams = {ask(connection, "/hold") for _ in range(200)}
            connection.flush()
            async with asyncio.timeout(20):
                await answered(connection, streams, ended=False)
        for connection in connections:
            connection.writer.close()


async def test_beyond_its_limit_a_sidecar_closes_connections_and_keeps_those_it_has(tmp_path: Path) -> None:
    """The limit is that of the bootstrap. What had no place has one as soon as stalled handshakes have ended."""
    async with called(tmp_path, [OPEN], serve=echoes, handshake=1.5, connections=20) as pod:
        context = trusting_nobody(*pod.caller("buy", "thief"))
        async with upgraded(pod, context) as (reader, writer):
            _, kept = await stalled("127.0.0.1", pod.port, connections=100, seconds=5)
            assert sum(one > 0.75 for one in kept) <= 20, "more than the limit were held"
            assert len(kept) == 100
            writer.write(b"still there")
            assert await asyncio.wait_for(reader.readexactly(11), 5) == b"still there"
        assert (await asked("127.0.0.1", pod.port, context, "/x"))[0] == "200"
