"""One HTTP/2 connection of a client, as an asyncio protocol: `h2` keeps the rules, this connects bytes and calls.

Everything runs on the thread of the event loop. A response that fits is written in the round that made it, without a
task, a queue or another thread. That, and a few kilobytes for each connection, is why the edge does not use gRPC's own
server (docs/xds.md has the figures).

A client cannot exceed its frames (`FrameReader`) or its unread bytes (`MemoryLedger`), have bytes of a call kept before
it is routed by its headers (`GrpcCall`), stay without a proven call (`ConnectionLifetime`), cause responses without
reading them (`FrameWriter`), delay other clients by long responses (`WriteScheduler`), or end other calls by a
malformed one (`H2Rules`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from services.xds_edge.errors import StreamRefusedError
from services.xds_edge.http2.call import GrpcCall, Router
from services.xds_edge.http2.frame_reader import FrameReader
from services.xds_edge.http2.frame_writer import FrameWriter
from services.xds_edge.http2.goaway import GoAway
from services.xds_edge.http2.h2_rules import MOST_CALLS, MOST_HEADERS, H2Rules
from services.xds_edge.http2.headers import Headers, malformed, malformed_trailers, weight
from services.xds_edge.http2.keepalive import ConnectionAction, ConnectionLifetime, Http2Limits
from services.xds_edge.http2.send_queue import SendQueue
from services.xds_edge.http2.write_scheduler import WriteScheduler
from services.xds_edge.limits.memory_ledger import MemoryLedger
from services.xds_edge.limits.pod_usage import PodUsage
from shared.timing.token_bucket import TokenBucket

MOST_REFUSED = 16
"""Calls without a valid token that a connection may make."""
_UNDECRYPTED = 32 * 1024
"""Bytes that TLS reads from the network while the connection itself is not read."""
_REOPEN = 16 * 1024
"""Bytes after which the window of the connection is opened again, whatever calls have read."""
_BUFFER = memoryview(bytearray(16 * 1024))
"""The buffer for one read, shared by all connections: its content is copied before the next read."""


def _grpc_only(headers: Headers) -> str:
    """The HTTP status for a request that is not a gRPC call; empty if it is one."""
    method, content = "", ""
    for name, value in headers:
        if name == ":method":
            method = value
        elif name == "content-type":
            content = value
    return "" if method == "POST" and content.startswith("application/grpc") else "415"


def _nothing(_connection: Http2Connection) -> None:
    pass


def _no_note(_reason: str) -> None:
    pass


class Http2Connection(asyncio.BufferedProtocol):
    """One connection; a `CallTransport`."""

    def __init__(
        self,
        router: Router,
        limits: Http2Limits,
        *,
        ledger: MemoryLedger | None = None,
        address_allowance: TokenBucket | None = None,
        turns: WriteScheduler | None = None,
        proven: Callable[[Http2Connection], None] = _nothing,
        closed: Callable[[Http2Connection], None] = _nothing,
        aged: Callable[[Http2Connection], None] = _nothing,
        note: Callable[[str], None] = _no_note,
        objection: Callable[[Headers], str] = _grpc_only,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`address_allowance`: frames that all connections of its address may send together without a token.

        `turns`: the scheduler of long writes, shared by all connections of the process. `aged`: the calls must end
        within `goaway.GRACE` seconds, because the client was asked to go elsewhere. `note`: why the edge closed it.
        `objection`: the HTTP status for a request that the edge does not serve; empty if it does.
        """
        self._router = router
        self._limits = limits
        self._ledger = ledger or MemoryLedger(each=limits.max_request * 2, total=limits.max_request * 8)
        self._proven, self._closed, self._aged, self._note = proven, closed, aged, note
        self._objection = objection
        self._h2 = H2Rules()
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._socket: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lifetime = ConnectionLifetime(limits, now, chance=chance())
        self._reader = FrameReader(self, debt=limits.debt, address_allowance=address_allowance)
        self._writer = FrameWriter(self._h2, self._reader, within=limits.write_timeout, given_up=self._give_up)
        self._goaway = GoAway(self._h2, self._writer, busy=lambda: bool(self.calls), close=self.close)
        self._scheduler = turns or WriteScheduler()
        self._usage: PodUsage | None = None
        self._refused = 0
        self._owed = 0
        self.calls: dict[int, GrpcCall] = {}
        """Open calls, by stream."""

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the settings and begin to read."""
        self._socket = cast("asyncio.Transport", transport)
        self._writer.open(self._socket)
        if (limit := getattr(transport, "set_read_buffer_limits", None)) is not None:  # TLS alone has it
            limit(high=_UNDECRYPTED)
        self._reader.open(self._socket)
        self._h2.send_settings()
        self._writer.flush()
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        """The client has gone."""
        self._socket = self._writer.transport = None
        self._reader.close()
        if self._timer is not None:
            self._timer.cancel()
        self._lose_calls()
        self._closed(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 (asyncio's signature)
        """The buffer for the next read."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes were read into the buffer."""
        self.data_received(bytes(_BUFFER[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Pass bytes to the frame reader."""
        if self._live:
            now = self._lifetime.heard = self._loop.time()
            self._reader.add(data, now)

    def pause_writing(self) -> None:
        """The network accepts no more bytes for now: stop reading too."""
        self._writer.pause()

    def resume_writing(self) -> None:
        """The network accepts bytes again."""
        self._writer.resume()
        self._let_write()

    # Calls

    @property
    def peer(self) -> str:
        """Address and port of the client, for people."""
        return str(self._socket.get_extra_info("peername")) if self._socket is not None else "gone"

    @property
    def address(self) -> str:
        """IP address of the client; empty if it is gone, or has none."""
        peer = self._socket.get_extra_info("peername") if self._socket is not None else None
        return str(peer[0]) if isinstance(peer, tuple) and peer else ""

    def prove(self, usage: PodUsage) -> None:
        """A call showed a token of this pod: from now on the connection counts as one of that pod."""
        if self._usage is None:
            self._usage = usage
            self._reader.trust(usage.frames)
            self._lifetime.prove()
            self._proven(self)

    def headers(self, stream: int, headers: Headers, *, ends: bool) -> None:
        """Send headers, or trailers."""
        if self._live:
            self._h2.send_headers(stream, list(headers), end_stream=ends)
            self._writer.flush()

    def send(self, stream: int, content: bytes | memoryview) -> int:
        """Send as many bytes as the client's windows and the network accept now."""
        return self._writer.data(stream, content)

    def queue(self, send_queue: SendQueue) -> None:
        """Have it proceed when it is the pod's turn to write."""
        self._scheduler.ask(self._usage or self, send_queue)

    def acknowledge(self, stream: int, size: int) -> None:
        """Open the window of one stream again."""
        if self._live and stream in self.calls and not self.calls[stream].half_closed:
            self._h2.increment_flow_control_window(size, stream)
            self._writer.flush()

    def hold(self, call: GrpcCall, size: int) -> None:
        """Count bytes that the call keeps unread; only a call that was routed receives any."""
        if self._usage is not None:
            self._ledger.add(self._usage.unread, call, size)

    def finished(self, stream: int, *, whole: bool) -> None:
        """The call has ended on the server side, whatever the client still sends in it."""
        call = self.calls.pop(stream, None)
        if call is None or self._socket is None or not self._live:
            return
        if not whole and self._writer.paused:
            # The client reads nothing: a reset would wait for ever behind the unread bytes.
            self._socket.abort()
            return
        if not call.half_closed or not whole:
            self._h2.reset_stream(stream, ErrorCodes.NO_ERROR if whole else ErrorCodes.INTERNAL_ERROR)
            self._writer.flush()
        self._call_is_over()

    # The end

    @property
    def _live(self) -> bool:
        return self._writer.transport is not None

    def leave(self) -> None:
        """Ask the client to go elsewhere; the connection closes with the last call, or after `goaway.GRACE` seconds."""
        self._goaway.begin()

    def close(self) -> None:
        """Close after the buffered bytes are written; the calls are cancelled."""
        if self._live:
            self._writer.close()
            self._lose_calls()

    def abort(self) -> None:
        """Close at once."""
        if self._socket is not None:
            self._socket.abort()

    # Reading

    def feed(self, frame: bytes) -> None:
        """Parse a complete frame."""
        self._writer.held = True
        try:
            for event in self._h2.receive_data(frame):
                if not self._live:
                    return
                if (handle := self._HANDLERS.get(type(event))) is not None:
                    handle(self, event)
        except ProtocolError:
            # The GOAWAY for it is in the buffer.
            self._note("protocol")
            self.fed()
            self.close()

    def fed(self) -> None:
        """Write the responses to all parsed frames at once."""
        self._writer.held = False
        self._writer.flush()

    def fail(self, code: ErrorCodes, reason: str) -> None:
        """End the connection because of its client."""
        self._note(reason)
        self._h2.close_connection(code)
        self.fed()
        self.close()

    def _on_data(self, event: DataReceived) -> None:
        stream, size = event.stream_id or 0, event.flow_controlled_length or 0
        self._owed += size
        if self._owed >= _REOPEN:
            # At once and for all calls: a call that is not read yet must not keep others from arriving.
            owed, self._owed = self._owed, 0
            self._h2.increment_flow_control_window(owed)
        call = self.calls.get(stream)
        if call is not None and (messages := call.receive(event.data or b"", size)) > 1 and self._usage is not None:
            # A frame may hold two thousand messages, and each is work.
            self._usage.frames.spend(messages - 1)

    def _on_window(self, _event: WindowUpdated | RemoteSettingsChanged) -> None:
        self._let_write()

    def _on_end(self, event: StreamEnded) -> None:
        if (call := self.calls.get(event.stream_id or 0)) is not None:
            call.close()

    def _on_reset(self, event: StreamReset) -> None:
        self._lose(event.stream_id or 0)

    def _on_trailers(self, event: TrailersReceived) -> None:
        if malformed_trailers(cast("Headers", event.headers or ())):
            self._h2.reset_stream(event.stream_id or 0, ErrorCodes.PROTOCOL_ERROR)
            self._lose(event.stream_id or 0)

    def _on_ping_ack(self, event: PingAckReceived) -> None:
        self._goaway.answered(event.ping_data or b"")

    def _on_terminated(self, _event: ConnectionTerminated) -> None:
        self.close()

    def _on_request(self, event: RequestReceived) -> None:
        self._open(event.stream_id or 0, cast("Headers", event.headers or ()), ends=event.stream_ended is not None)

    _HANDLERS: ClassVar[Mapping[type[Event], Callable[[Any, Any], None]]] = {
        DataReceived: _on_data,
        WindowUpdated: _on_window,
        RemoteSettingsChanged: _on_window,
        RequestReceived: _on_request,
        StreamEnded: _on_end,
        StreamReset: _on_reset,
        TrailersReceived: _on_trailers,
        PingAckReceived: _on_ping_ack,
        ConnectionTerminated: _on_terminated,
    }
    """By the class of the event; other events need no response."""

    def _open(self, stream: int, headers: Headers, *, ends: bool) -> None:
        if malformed(headers):
            self._h2.reset_stream(stream, ErrorCodes.PROTOCOL_ERROR)
            return
        if self._goaway.refuses(stream) or len(self.calls) >= MOST_CALLS:
            self._h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
            return
        status = "431" if weight(headers) > MOST_HEADERS else self._objection(headers)
        if status:
            self._h2.send_headers(stream, [(":status", status)], end_stream=True)
            if not ends:
                self._h2.reset_stream(stream, ErrorCodes.NO_ERROR)
            self._count_refused()
            return
        limits = self._limits
        call = GrpcCall(self, stream, headers, limit=limits.max_request, patience=limits.request_within)
        self.calls[stream] = call
        if ends:
            call.close()
        try:
            call.route(self._router)
        except StreamRefusedError:
            self._count_refused()
        else:
            if stream in self.calls:
                self._lifetime.use()

    def _count_refused(self) -> None:
        """Close an unproven connection that keeps making refused calls."""
        if self._usage is None:
            self._refused += 1
            if self._refused >= MOST_REFUSED:
                self.fail(ErrorCodes.ENHANCE_YOUR_CALM, "refused")

    # Inside

    def _lose(self, stream: int) -> None:
        call = self.calls.pop(stream, None)
        if call is not None:
            call.lose()
            self._call_is_over()

    def _lose_calls(self) -> None:
        calls, self.calls = list(self.calls.values()), {}
        for call in calls:
            call.lose()

    def _let_write(self) -> None:
        for call in self.calls.values():
            call.writable()

    def _call_is_over(self) -> None:
        if not self.calls:
            self._lifetime.rest(self._loop.time())
            self._goaway.rest()

    def _give_up(self) -> None:
        """Abort a client that reads nothing."""
        if self._socket is not None:
            self._note("unread")
            self._socket.abort()

    def _look_again(self) -> None:
        self._timer = self._loop.call_at(self._lifetime.due, self._look)

    def _look(self) -> None:
        """Probe a silent client, and close a connection that is unproven, idle or old."""
        if not self._live:
            return
        match self._lifetime.look(self._loop.time()):
            case ConnectionAction.ABORT:
                self._note("silent")
                self.abort()
                return
            case ConnectionAction.UNPROVEN:
                self.fail(ErrorCodes.NO_ERROR, "unproven")
                return
            case ConnectionAction.IDLE:
                self._note("idle")
                self.leave()
            case ConnectionAction.PROBE if not self._goaway.begun:
                self._h2.ping(b"meshlog?")
                self._writer.flush()
            case ConnectionAction.LEAVE if not self._goaway.begun:
                self.leave()
                self._aged(self)
            case ConnectionAction.PROBE | ConnectionAction.LEAVE | ConnectionAction.NONE:
                pass
        self._look_again()
