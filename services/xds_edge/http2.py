"""One HTTP/2 connection of a client, as an asyncio protocol: `h2` keeps the rules, here bytes and calls change hands.

Everything happens on the event loop's thread. A response that fits is written in the turn that made it, without a
task, a queue or another thread between: that, and a few kilobytes a connection, is why the edge does not use gRPC's
own server (docs/xds.md has the figures).

What a client cannot do: make us parse more frames than it is allowed (`intake`), keep more unread than it is allowed
(`ledger`), have anything of a call kept before the call is routed by its headers (`calls`), stay without a proven call
(`lifetime`), make us write without reading what we wrote, or end other calls by a malformed one (`rules`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import cast

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
from hyperframe.frame import GoAwayFrame

from services.xds_edge.accounts import Account
from services.xds_edge.admission import StreamRefusedError
from services.xds_edge.calls import Call, Router
from services.xds_edge.headers import Headers, malformed, malformed_trailers, weight
from services.xds_edge.intake import Intake
from services.xds_edge.ledger import Ledger
from services.xds_edge.lifetime import Duty, Lifetime, Limits
from services.xds_edge.meter import Allowance
from services.xds_edge.rules import MOST_CALLS, MOST_HEADERS, Rules

GRACE = 5.0
"""Seconds that the calls of a connection that is asked to leave may take to end."""
MOST_REFUSED = 16
"""Calls without a good token that a connection may make."""
_UNSENT = 256 * 1024
"""Bytes that wait in a connection's buffer before its calls wait."""
_UNDECRYPTED = 32 * 1024
"""Bytes that TLS takes from the network before a connection that is not read is not read there either."""
_PART = 4096
"""Bytes of a frame that we send: OpenSSL's buffer grows to the largest write of a connection, and stays so."""
_REOPEN = 16 * 1024
"""Bytes after which the connection's window is opened again, whatever calls have read."""
_LEAVING = b"leaving?"
_PARTING = 1.0
"""Seconds that the answer to the first GOAWAY may take."""
_ALL_STREAMS = 2**31 - 1

_BUFFER = memoryview(bytearray(16 * 1024))
"""What one read brings, of all connections: it is copied out before the next."""


def _grpc_only(headers: Headers) -> str:
    """The status for a request that is no gRPC call; empty if it is one."""
    method, content = "", ""
    for name, value in headers:
        if name == ":method":
            method = value
        elif name == "content-type":
            content = value
    return "" if method == "POST" and content.startswith("application/grpc") else "415"


def _nothing(_connection: Connection) -> None:
    pass


def _no_note(_reason: str) -> None:
    pass


class Connection(asyncio.BufferedProtocol):
    """One connection; a `calls.Carrier`."""

    def __init__(
        self,
        router: Router,
        limits: Limits,
        *,
        ledger: Ledger | None = None,
        strangers: Allowance | None = None,
        opened: Callable[[Connection], None] = _nothing,
        proven: Callable[[Connection], None] = _nothing,
        closed: Callable[[Connection], None] = _nothing,
        aged: Callable[[Connection], None] = _nothing,
        note: Callable[[str], None] = _no_note,
        objection: Callable[[Headers], str] = _grpc_only,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`strangers`: frames that all connections of its address may send together, unproven.

        `aged`: its calls must end within `GRACE` seconds; the client was asked to go elsewhere. `note`: why we ended
        it. `objection`: the HTTP status for a request that is none of ours; empty: it is one.
        """
        self._router = router
        self._limits = limits
        self._ledger = ledger or Ledger(each=limits.max_request * 2, total=limits.max_request * 8)
        self._opened, self._proven, self._closed, self._aged, self._note = opened, proven, closed, aged, note
        self._objection = objection
        self._h2 = Rules()
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._socket: asyncio.Transport | None = None
        self._transport: asyncio.Transport | None = None
        """The same, as long as anything may be written to it."""
        self._timer: asyncio.TimerHandle | None = None
        self._lifetime = Lifetime(limits, now, chance=chance())
        self._intake = Intake(self, debt=limits.debt, strangers=strangers)
        self._account: Account | None = None
        self._paused = False
        """Whether the network takes nothing more."""
        self._paused_at = 0.0
        self._feeding = False
        self._asked_to_leave = False
        self._last: int | None = None
        """The last stream that is taken, once the connection leaves for good."""
        self._refused = 0
        self._owed = 0
        self.calls: dict[int, Call] = {}
        """Calls that are open, by stream."""

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._socket = self._transport = cast("asyncio.Transport", transport)
        self._opened(self)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._note("alpn")
            self._transport = None
            transport.close()
            return
        self._socket.set_write_buffer_limits(high=_UNSENT)
        if (limit := getattr(transport, "set_read_buffer_limits", None)) is not None:  # TLS alone has it
            limit(high=_UNDECRYPTED)
        self._intake.open(self._socket)
        self._h2.greet()
        self._flush()
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        """The client has gone."""
        self._socket = self._transport = None
        self._intake.close()
        if self._timer is not None:
            self._timer.cancel()
        self._lose_calls()
        self._closed(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 (asyncio's signature)
        """Where the next read goes."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """So much was read."""
        self.data_received(bytes(_BUFFER[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Take what came, as far as it is allowed."""
        if self._transport is not None:
            now = self._lifetime.heard = self._loop.time()
            self._intake.add(data, now)

    def pause_writing(self) -> None:
        """The network takes no more for now: neither do we."""
        self._paused = True
        self._paused_at = self._loop.time()
        self._intake.pause(paused=True)
        self._loop.call_later(self._limits.write_timeout, self._give_up_writing, self._paused_at)

    def resume_writing(self) -> None:
        """It does again."""
        self._paused = False
        self._intake.pause(paused=False)
        self._let_write()

    # Calls

    @property
    def peer(self) -> str:
        """Address and port of the client, for people."""
        return str(self._transport.get_extra_info("peername")) if self._transport is not None else "gone"

    @property
    def address(self) -> str:
        """IP address of the client; empty: it is gone, or has none."""
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(peer[0]) if isinstance(peer, tuple) and peer else ""

    def prove(self, account: Account) -> None:
        """A call showed a token of this pod: the connection counts as that pod's from now on."""
        if self._account is None:
            self._account = account
            self._intake.trust(account.frames)
            self._lifetime.prove()
            self._proven(self)

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
            self._intake.earn()
            self._transport.write(http2.data_to_send())
        return sent

    def acknowledge(self, stream: int, size: int) -> None:
        """Open the window of one stream again."""
        if self._transport is not None and stream in self.calls and not self.calls[stream].half_closed:
            self._h2.increment_flow_control_window(size, stream)
            self._flush()

    def hold(self, call: Call, size: int) -> None:
        """Count what the call keeps unread, or no more; only a call that was routed receives anything."""
        if self._account is not None:
            self._ledger.add(self._account.unread, call, size)

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
        self._call_is_over()

    # The end

    def leave(self) -> None:
        """Ask the client to go elsewhere; it closes with the last call, or after `GRACE`.

        In two steps (RFC 9113, section 6.8): calls that are on their way when it hears of it are still taken.
        """
        if self._asked_to_leave or self._transport is None:
            return
        self._asked_to_leave = True
        self._h2.ping(_LEAVING)
        self._flush()
        # Not by h2: it takes a GOAWAY for the end of everything.
        self._transport.write(GoAwayFrame(0, last_stream_id=_ALL_STREAMS).serialize())
        self._loop.call_later(_PARTING, self._leave_now)

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

    # Reading

    def feed(self, frame: bytes) -> None:
        """Parse a whole frame."""
        self._feeding = True
        try:
            for event in self._h2.receive_data(frame):
                if self._transport is None:
                    return
                self._take(event)
        except ProtocolError:
            # The GOAWAY that says so is in the buffer.
            self._note("protocol")
            self.fed()
            self.close()

    def fed(self) -> None:
        """Write what the frames made us say, at once for all of them."""
        self._feeding = False
        self._flush()

    def fail(self, code: ErrorCodes, reason: str) -> None:
        """End the connection for what the client did."""
        self._note(reason)
        self._h2.close_connection(code)
        self._feeding = False
        self._flush()
        self.close()

    def _take(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self._take_data(event.stream_id or 0, event.data or b"", event.flow_controlled_length or 0)
        elif isinstance(event, WindowUpdated | RemoteSettingsChanged):
            self._let_write()
        elif isinstance(event, RequestReceived):
            self._open(event.stream_id or 0, cast("Headers", event.headers or ()), ends=event.stream_ended is not None)
        elif isinstance(event, StreamEnded):
            self._end(event.stream_id or 0)
        elif isinstance(event, StreamReset):
            self._lose(event.stream_id or 0)
        elif isinstance(event, TrailersReceived):
            if malformed_trailers(cast("Headers", event.headers or ())):
                self._h2.reset_stream(event.stream_id or 0, ErrorCodes.PROTOCOL_ERROR)
                self._lose(event.stream_id or 0)
        elif isinstance(event, PingAckReceived) and event.ping_data == _LEAVING:
            self._leave_now()
        elif isinstance(event, ConnectionTerminated):
            self.close()

    def _take_data(self, stream: int, content: bytes, size: int) -> None:
        self._owed += size
        if self._owed >= _REOPEN:
            # At once, and for all calls: one that waits to be read must not keep others from arriving.
            owed, self._owed = self._owed, 0
            self._h2.increment_flow_control_window(owed)
        call = self.calls.get(stream)
        if call is not None:
            call.receive(content, size)

    def _end(self, stream: int) -> None:
        if (call := self.calls.get(stream)) is not None:
            call.close()

    def _open(self, stream: int, headers: Headers, *, ends: bool) -> None:
        if malformed(headers):
            self._h2.reset_stream(stream, ErrorCodes.PROTOCOL_ERROR)
            return
        if (self._last is not None and stream > self._last) or len(self.calls) >= MOST_CALLS:
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
        call = Call(self, stream, headers, limit=limits.max_request, patience=limits.request_within)
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
        """Let go of a stranger that tries on."""
        if self._account is None:
            self._refused += 1
            if self._refused >= MOST_REFUSED:
                self.fail(ErrorCodes.ENHANCE_YOUR_CALM, "refused")

    # Inside

    def _flush(self) -> None:
        if self._feeding:
            return
        content = self._h2.data_to_send()
        if content and self._transport is not None:
            self._transport.write(content)

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
            if self._last is not None:
                self.close()

    def _leave_now(self) -> None:
        if self._last is not None or self._transport is None:
            return
        self._last = self._h2.highest_inbound_stream_id
        self._transport.write(GoAwayFrame(0, last_stream_id=self._last).serialize())
        self._loop.call_later(GRACE, self.close)
        if not self.calls:
            self.close()

    def _give_up_writing(self, since: float) -> None:
        """Cut off a client that has read nothing since then."""
        if self._paused and self._paused_at == since and self._socket is not None:
            self._note("unread")
            self._socket.abort()

    def _look_again(self) -> None:
        self._timer = self._loop.call_at(self._lifetime.due, self._look)

    def _look(self) -> None:
        """Probe a silent client, let go of one that is of no use, and of one that has been here for long."""
        if self._transport is None:
            return
        match self._lifetime.look(self._loop.time()):
            case Duty.ABORT:
                self._note("silent")
                self.abort()
                return
            case Duty.UNPROVEN:
                self.fail(ErrorCodes.NO_ERROR, "unproven")
                return
            case Duty.IDLE:
                self._note("idle")
                self.leave()
            case Duty.PROBE if not self._asked_to_leave:
                self._h2.ping(b"meshlog?")
                self._flush()
            case Duty.LEAVE if not self._asked_to_leave:
                self.leave()
                self._aged(self)
            case Duty.PROBE | Duty.LEAVE | Duty.NONE:
                pass
        self._look_again()
