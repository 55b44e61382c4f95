"""One HTTP/2 connection of a client, as an asyncio protocol: `h2` keeps the rules, here bytes and calls change hands.

Everything happens on the event loop's thread. A response that fits is written in the turn that made it, without a
task, a queue or another thread between: that, and a few kilobytes a connection, is why the edge does not use gRPC's
own server (docs/xds.md has the figures).

What a client cannot do: make us buffer (its window opens as messages are read), leave half-open connections behind
(silence is probed), keep a connection without calls for nothing, or take more than its share with cheap frames
(calls, resets, pings and settings are read at a bounded rate).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from services.xds_edge.calls import Call, Headers
from services.xds_edge.lifetime import Duty, Lifetime, Limits

Handler = Callable[[Call], Awaitable[None]]

MOST_CALLS = 256
"""Calls that a connection may have at a time."""
MOST_HEADERS = 32 * 1024
"""Bytes of the headers of a call: a token, and room."""
GRACE = 5.0
"""Seconds that the calls of a connection that is asked to leave may take to end."""
CHEAP_RATE = 2000.0
"""Calls, resets, pings and settings that are read a second of one connection; more wait in the network."""
_CHEAP = (RequestReceived, StreamReset, PingReceived, RemoteSettingsChanged, PriorityUpdated)
_UNSENT = 256 * 1024
"""Bytes that wait in a connection's buffer before its calls wait."""
_LONGEST_FRAME = 9 + 16_384
"""Bytes of a frame and its header that a client may send: we never allowed it more."""
_MOST_CONTINUED = 4
"""Frames that the headers of one call may take."""
_PART = 4096
"""Bytes of a frame that we send: OpenSSL's buffer grows to the largest write of a connection, and stays so."""


_CONFIGURATION = H2Configuration(client_side=False, header_encoding="latin-1")
_SETTINGS = Settings(
    client=False,
    initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: MOST_CALLS, SettingCodes.MAX_HEADER_LIST_SIZE: MOST_HEADERS},
)
"""Ours, of all connections: they never change, and one object a connection would be 5 kB each."""


class _Rules(H2Connection):
    """The rules of a connection, which remember fewer calls that are over than 65,536: they are a client's to open."""

    MAX_CLOSED_STREAMS = 4 * MOST_CALLS


class Connection(asyncio.Protocol):
    """One connection; a `calls.Carrier`."""

    def __init__(
        self,
        handler: Handler,
        limits: Limits,
        *,
        opened: Callable[[Connection], None],
        closed: Callable[[Connection], None],
        aged: Callable[[Connection], None],
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`aged`: its calls must end within `GRACE` seconds; the client was asked to go elsewhere."""
        self._handler = handler
        self._limits = limits
        self._opened, self._closed, self._aged = opened, closed, aged
        self._h2 = _Rules(_CONFIGURATION)
        self._h2.local_settings = _SETTINGS
        self._h2.decoder.max_header_list_size = MOST_HEADERS
        self._loop = asyncio.get_running_loop()
        self._socket: asyncio.Transport | None = None
        self._transport: asyncio.Transport | None = None
        """The same, as long as anything may be written to it."""
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._lifetime = Lifetime(limits, self._loop.time(), chance=chance())
        self._leaving = False
        self._cheap = CHEAP_RATE
        self._counted = self._loop.time()
        self.calls: dict[int, Call] = {}
        """Calls that are open, by stream."""

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._socket = self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_UNSENT)
        self._opened(self)
        self._h2.initiate_connection()
        self._flush()
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        """The client has gone."""
        self._socket = self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._lose_calls()
        self._closed(self)

    def data_received(self, data: bytes) -> None:
        """Take what came, and answer what is the protocol's own business."""
        if self._transport is None:
            return
        self._lifetime.heard = self._loop.time()
        try:
            events = self._h2.receive_data(data)
            for event in events:
                self._take(event)
            self._check_backlog()
        except ProtocolError:
            # The GOAWAY that says so is in the buffer.
            self._flush()
            self.close()
            return
        self._flush()

    def pause_writing(self) -> None:
        """The network takes no more for now."""
        self._paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self._paused = False
        self._let_write()

    # Calls

    @property
    def peer(self) -> str:
        """Address of the client."""
        return str(self._transport.get_extra_info("peername")) if self._transport is not None else "gone"

    def headers(self, stream: int, headers: Headers, *, ends: bool) -> None:
        """Send headers, or trailers."""
        if self._transport is not None:
            self._h2.send_headers(stream, list(headers), end_stream=ends)
            self._flush()

    def send(self, stream: int, content: bytes) -> int:
        """Send as much as the client's windows and the network take now."""
        http2, sent, size = self._h2, 0, len(content)
        while sent < size and not self._paused and self._transport is not None:
            part = min(http2.local_flow_control_window(stream), _PART, size - sent)
            if part <= 0:
                break
            http2.send_data(stream, content if part == size else content[sent : sent + part])
            sent += part
            self._transport.write(http2.data_to_send())
        return sent

    def acknowledge(self, stream: int, size: int) -> None:
        """Open the client's windows again."""
        if self._transport is not None and size:
            self._h2.acknowledge_received_data(size, stream)
            self._flush()

    def finished(self, stream: int, *, whole: bool) -> None:
        """The call is over on our side, whatever the client still says in it."""
        call = self.calls.pop(stream, None)
        if call is None or self._transport is None:
            return
        if not whole and self._paused:
            # It reads nothing: a farewell would wait for ever behind what it has not read.
            self._transport.abort()
            return
        if not call.half_closed or not whole:
            self._h2.reset_stream(stream, ErrorCodes.NO_ERROR if whole else ErrorCodes.INTERNAL_ERROR)
            self._flush()
        self._close_if_left()

    # The end

    def leave(self) -> None:
        """Ask the client to go elsewhere: no new calls here; it closes with the last one, or after `GRACE`."""
        if self._leaving or self._transport is None:
            return
        self._leaving = True
        # Not by h2: it takes a GOAWAY for the end of everything.
        self._transport.write(GoAwayFrame(0, last_stream_id=self._h2.highest_inbound_stream_id).serialize())
        self._loop.call_later(GRACE, self.close)
        self._close_if_left()

    def close(self) -> None:
        """Close, once what is buffered is written; its calls are cancelled."""
        if self._transport is not None:
            transport, self._transport = self._transport, None
            if not transport.is_closing():  # to close twice breaks `abort` of TLS
                transport.close()
            self._lose_calls()

    def abort(self) -> None:
        """Close at once."""
        if self._socket is not None:
            self._socket.abort()

    # Inside

    def _take(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self._take_data(event.stream_id or 0, event.data or b"", event.flow_controlled_length or 0)
        elif isinstance(event, WindowUpdated | RemoteSettingsChanged):
            self._let_write()
        elif isinstance(event, RequestReceived):
            self._open(event.stream_id or 0, cast("Headers", event.headers or ()))
        elif isinstance(event, StreamEnded):
            if (call := self.calls.get(event.stream_id or 0)) is not None:
                call.close()
        elif isinstance(event, StreamReset):
            self._take_reset(event.stream_id or 0)
        elif isinstance(event, ConnectionTerminated):
            self.close()
        if isinstance(event, _CHEAP):
            self._count()

    def _check_backlog(self) -> None:
        """Refuse frames, and headers in many frames, that are too long: h2 would first read them to their end."""
        waiting = self._h2.incoming_buffer
        if len(waiting._data) > _LONGEST_FRAME or len(waiting._headers_buffer) > _MOST_CONTINUED:  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001
            self._h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            raise ProtocolError

    def _take_data(self, stream: int, content: bytes, size: int) -> None:
        call = self.calls.get(stream)
        if call is not None:
            call.receive(content, size)
        else:
            self._h2.acknowledge_received_data(size, stream)

    def _take_reset(self, stream: int) -> None:
        call = self.calls.pop(stream, None)
        if call is not None:
            call.lose()
            self._close_if_left()

    def _open(self, stream: int, headers: Headers) -> None:
        if self._leaving:
            self._h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
            return
        named = dict(headers)
        if named.get(":method") != "POST" or not named.get("content-type", "").startswith("application/grpc"):
            self._h2.send_headers(stream, [(":status", "415")], end_stream=True)
            self._h2.reset_stream(stream, ErrorCodes.NO_ERROR)
            return
        self._lifetime.used = True
        call = self.calls[stream] = Call(self, stream, headers, limit=self._limits.max_request)
        call.serve(self._handler)

    def _flush(self) -> None:
        content = self._h2.data_to_send()
        if content and self._transport is not None:
            self._transport.write(content)

    def _lose_calls(self) -> None:
        calls, self.calls = list(self.calls.values()), {}
        for call in calls:
            call.lose()

    def _let_write(self) -> None:
        for call in self.calls.values():
            call.writable()

    def _close_if_left(self) -> None:
        if self._leaving and not self.calls:
            self.close()

    def _count(self) -> None:
        now = self._loop.time()
        self._cheap = min(CHEAP_RATE, self._cheap + (now - self._counted) * CHEAP_RATE) - 1
        self._counted = now
        if self._cheap < 0 and self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()
            self._loop.call_later(0.05 - self._cheap / CHEAP_RATE, self._read_on)

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _look_again(self) -> None:
        self._timer = self._loop.call_at(self._lifetime.due, self._look)

    def _look(self) -> None:
        """Probe a silent client, let go of one that does not answer, and of one that has been here for long."""
        if self._transport is None:
            return
        match self._lifetime.look(self._loop.time()):
            case Duty.ABORT:
                self.abort()
                return
            case Duty.CLOSE:
                self.close()
                return
            case Duty.PROBE:
                self._h2.ping(b"meshlog?")
                self._flush()
            case Duty.LEAVE if not self._leaving:
                self.leave()
                self._aged(self)
            case Duty.LEAVE | Duty.NONE:
                pass
        self._look_again()
