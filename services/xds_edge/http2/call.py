"""One gRPC call on the server: decodes messages from a stream of bytes, encodes messages, and ends with a status.

The rules are those of gRPC's "PROTOCOL-HTTP2": a compression flag and the length precede each message, and the status
is in the trailers. `connection` carries the bytes.

A call is routed by its headers alone, before any byte of it is kept: a client without a valid token in them gets its
status at once, and its further bytes are dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import quote

from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.http2 import headers as headers_
from services.xds_edge.http2.headers import Headers, TimeoutFormatError
from services.xds_edge.http2.send_queue import SendQueue, pieces
from services.xds_edge.http2.write_scheduler import LONG
from services.xds_edge.limits.loop_pacing import yield_to_loop
from services.xds_edge.limits.pod_usage import PodUsage

_PREFIX = 5
_ACKNOWLEDGE = 16 * 1024
"""Bytes read after which the window of the call's own stream is opened again."""
_PASSING = 4096
"""Bytes of a message that is not counted while it is the only one: its handler reads it at once."""
_IN_A_ROW = 4
"""Messages that a handler reads in a row before other work runs: each may take a tenth of a millisecond."""
_KEEPING = 128
"""Bytes counted for a message beside its own, so that empty messages count too."""

RESPONSE: Headers = (
    (":status", "200"),
    ("content-type", "application/grpc"),
    ("grpc-accept-encoding", "identity"),
)


class CallTransport(Protocol):
    """The connection that carries a call."""

    @property
    def peer(self) -> str:
        """Address and port of the client, for people."""
        ...

    @property
    def address(self) -> str:
        """IP address of the client; empty if it is gone, or has none."""
        ...

    def headers(self, stream: int, headers: Headers, *, ends: bool) -> None:
        """Send headers, or trailers that end the server side."""
        ...

    def send(self, stream: int, content: bytes | memoryview) -> int:
        """Send as many bytes as may be sent now; returns their number."""
        ...

    def queue(self, send_queue: SendQueue) -> None:
        """Have it proceed when it is its turn to write."""
        ...

    def acknowledge(self, stream: int, size: int) -> None:
        """Allow the client to send `size` more bytes on this stream."""
        ...

    def prove(self, usage: PodUsage) -> None:
        """A call showed a token of this pod."""
        ...

    def hold(self, call: GrpcCall, size: int) -> None:
        """Count `size` more (or fewer) bytes that the call keeps unread.

        If they are too many, `GrpcCall.overflow` is called, and the bytes of the call are not counted any more.
        """
        ...

    def finished(self, stream: int, *, whole: bool) -> None:
        """The call is over on the server side. `whole`: not in the middle of a message."""
        ...


class GrpcCall:
    """One gRPC call."""

    __slots__ = (
        "_arrived",
        "_broken",
        "_client_done",
        "_deadline",
        "_in_a_row",
        "_limit",
        "_opened",
        "_owed",
        "_partial",
        "_patience",
        "_queue",
        "_reader",
        "_stream",
        "_transport",
        "_watch",
        "ended",
        "metadata",
        "path",
        "task",
        "unread",
    )

    def __init__(
        self, transport: CallTransport, stream: int, headers: Headers, *, limit: int, patience: float = 30.0
    ) -> None:
        """`limit`: bytes of a message of the client; `patience`: seconds that a message may take to arrive."""
        self._transport = transport
        self._stream = stream
        self._limit = limit
        self._patience = patience
        self.path = next((value for name, value in headers if name == ":path"), "")
        self.metadata: Headers = [pair for pair in headers if not pair[0].startswith(":")]
        self.task: asyncio.Task[None] | None = None
        self.ended = False
        """Whether nothing can be sent any more."""
        self.unread = 0
        """Bytes that the transport counts for the call."""
        self._arrived: deque[tuple[bytes, int, int]] | None = None
        """Messages; for each the bytes that it took of the window, and the bytes counted for it."""
        self._queue: SendQueue | None = None
        """Set while a message waits to be sent completely."""
        self._partial: bytearray | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._client_done = False
        self._broken: StreamRefusedError | None = None
        self._opened = False
        self._in_a_row = 0
        self._owed = 0
        self._reader: asyncio.Future[None] | None = None

    @property
    def peer(self) -> str:
        """Address and port of the client, for people."""
        return self._transport.peer

    @property
    def address(self) -> str:
        """IP address of the client; empty if it is gone, or has none."""
        return self._transport.address

    @property
    def delay(self) -> float:
        """Seconds that the message which is being written has waited for its turn."""
        return self._queue.delay if self._queue is not None else 0.0

    def prove(self, usage: PodUsage) -> None:
        """The token of the call belongs to this pod."""
        self._transport.prove(usage)

    def narrow(self, limit: int) -> None:
        """Accept messages of at most `limit` bytes."""
        self._limit = min(limit, self._limit)

    # For the handler

    async def read(self) -> bytes | None:
        """The next message, or None if the client has ended its side. Raises `StreamRefusedError`."""
        while not self._arrived or self._in_a_row >= _IN_A_ROW:
            self._in_a_row = 0
            if self._arrived:
                await yield_to_loop()
                continue
            if self._broken is not None:
                raise self._broken
            if self._client_done:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        self._in_a_row += 1
        message, size, counted = self._arrived.popleft()
        self._count(-counted)
        self._acknowledge(size)
        return message

    async def write(self, *parts: bytes) -> None:
        """Send a message, which may have several parts; waits while the client or the network accepts no more.

        A long message is written in turns with others. Raises `StreamRefusedError`.
        """
        if self.ended:
            raise StreamRefusedError(Code.UNAVAILABLE, "stream/gone", "the client has gone")
        size = sum(map(len, parts))
        prefix = b"\0" + size.to_bytes(4, "big")
        if not self._opened:
            self._opened = True
            self._transport.headers(self._stream, RESPONSE, ends=False)
        if size < LONG:
            content = b"".join((prefix, *parts))
            sent = self._transport.send(self._stream, content)
            if sent == len(content):
                return
            # The rest waits until the client can receive more, and then for its turn.
            self._queue = send_queue = SendQueue(
                self._transport, self._stream, [memoryview(content)[sent:]], begun=True
            )
        else:
            self._queue = send_queue = SendQueue(self._transport, self._stream, pieces(prefix, parts), begun=False)
            send_queue.queue()
        await send_queue.sent
        self._queue = None

    def finish(self, code: Code, sentence: str = "") -> None:
        """End the call with this status; does nothing if it has ended."""
        if self.ended:
            return
        self.ended = True
        whole = self._queue is None or not self._queue.begun
        if whole:
            status = (("grpc-status", str(int(code))), ("grpc-message", quote(sentence, safe=_PLAIN)))
            self._transport.headers(self._stream, status if self._opened else (*RESPONSE, *status), ends=True)
        self._release()
        self._transport.finished(self._stream, whole=whole)

    # For the connection

    def route(self, router: Router) -> None:
        """Find the handler by the headers and run it, or end the call at once.

        Raises `StreamRefusedError` after ending the call with it. The handler is cancelled if the client goes away, and
        when the deadline of the call passes.
        """
        try:
            handler = router(self)
            seconds = headers_.timeout(self.metadata)
        except StreamRefusedError as refusal:
            self.finish(refusal.status, refusal.sentence)
            raise
        except TimeoutFormatError:
            self.finish(Code.INTERNAL, "the grpc-timeout cannot be read")
            return
        if seconds is not None:
            self._deadline = asyncio.get_running_loop().call_later(seconds, self._expire)
        self.task = asyncio.ensure_future(_run(handler, self))

    def receive(self, content: bytes, size: int) -> int:
        """Accept bytes of the client; returns how many messages they end.

        `size`: bytes that they took of its window.
        """
        before = len(self._arrived or ())
        self._receive(content, size)
        return len(self._arrived or ()) - before

    def _receive(self, content: bytes, size: int) -> None:
        if self._broken is not None:
            self._acknowledge(size)
            return
        if self._partial is None and len(content) >= _PREFIX:
            length = int.from_bytes(content[1:_PREFIX], "big")
            if len(content) == _PREFIX + length and not content[0] and length <= self._limit:
                self._count(self._deliver(content[_PREFIX:], size))
                return
        partial = self._partial = self._partial or bytearray()
        counted = -len(partial)
        partial += content
        rest, delivered, size, error = self._split(partial, size)
        self._partial = rest
        if error is not None:
            self._break(error)
        elif rest is not None and self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(self._patience, self._look, rest)
        # The window opens for bytes of incomplete messages, because a message may be larger than the window.
        self._acknowledge(size)
        self._count(counted + delivered + len(rest or b""))

    def close(self) -> None:
        """The client has ended its side."""
        self._client_done = True
        self._wake()

    def lose(self) -> None:
        """The client has gone, and its stream with it."""
        self.ended = True
        self._release()
        if self.task is not None:
            self.task.cancel()

    def overflow(self) -> None:
        """Keep no more bytes of the client: it has sent too many."""
        self._partial = self._arrived = None
        self.unread = 0
        self._break(
            StreamRefusedError(Code.RESOURCE_EXHAUSTED, "stream/unread", "too much of what was sent waits to be read")
        )

    def writable(self) -> None:
        """More bytes may be sent."""
        if self._queue is not None:
            self._queue.queue()

    @property
    def half_closed(self) -> bool:
        """Whether the client has ended its side."""
        return self._client_done

    def _split(self, partial: bytearray, size: int) -> tuple[bytearray | None, int, int, StreamRefusedError | None]:
        """Take complete messages off the front.

        Returns the remaining bytes, the bytes to count for the messages, the part of `size` that belongs to no message,
        and the error that ends the call.
        """
        at = counted = 0
        error: StreamRefusedError | None = None
        while len(partial) - at >= _PREFIX:
            if error := self._objection(partial[at], length := int.from_bytes(partial[at + 1 : at + _PREFIX], "big")):
                break
            end = at + _PREFIX + length
            if len(partial) < end:
                break
            weight = min(size, end - at)
            size -= weight
            with memoryview(partial) as whole:
                # The slice of a bytearray is a copy already, and a message may be megabytes.
                message = bytes(whole[at + _PREFIX : end])
            counted += self._deliver(message, weight)
            at = end
        rest = (partial[at:] or None) if at else partial
        return None if error is not None else rest, counted, size, error

    def _objection(self, flag: int, length: int) -> StreamRefusedError | None:
        if flag:
            return StreamRefusedError(Code.UNIMPLEMENTED, "stream/compressed", "messages must not be compressed")
        if length > self._limit:
            return StreamRefusedError(
                Code.RESOURCE_EXHAUSTED,
                "stream/message-too-long",
                f"a message of {length} bytes; {self._limit} are the most",
            )
        return None

    def _deliver(self, message: bytes, size: int) -> int:
        # The window of the stream opens when the message is read, so a client cannot send without bound.
        arrived = self._arrived
        if arrived is None:
            arrived = self._arrived = deque()
        counted = 0 if not arrived and len(message) <= _PASSING else len(message) + _KEEPING
        arrived.append((message, size, counted))
        self._wake()
        return counted

    def _count(self, size: int) -> None:
        """Have the transport count `size` more (or fewer) bytes. It may call `overflow`, so this comes last."""
        if size:
            self.unread += size
            self._transport.hold(self, size)

    def _acknowledge(self, size: int) -> None:
        self._owed += size
        if self._owed >= _ACKNOWLEDGE:
            owed, self._owed = self._owed, 0
            self._transport.acknowledge(self._stream, owed)

    def _break(self, error: StreamRefusedError) -> None:
        """Accept no more bytes. The handler gets the error after it has read the complete messages."""
        self._broken = self._broken or error
        self._wake()

    def _forget(self) -> None:
        self._partial = self._arrived = None
        self._count(-self.unread)

    def _release(self) -> None:
        for timer in (self._watch, self._deadline):
            if timer is not None:
                timer.cancel()
        if self._queue is not None:
            self._queue.drop()
        self._forget()

    def _expire(self) -> None:
        if not self.ended:
            self.finish(Code.DEADLINE_EXCEEDED, "the time that the client gave the call is over")
            if self.task is not None:
                self.task.cancel()

    def _look(self, watched: bytearray) -> None:
        """End the call if the message that was arriving then is still incomplete."""
        self._watch = None
        if self._partial is watched:
            self._partial = None
            self._count(-len(watched))
            self._break(
                StreamRefusedError(
                    Code.RESOURCE_EXHAUSTED,
                    "stream/message-too-slow",
                    f"a message was not whole after {self._patience:g} s",
                )
            )

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


Handler = Callable[[GrpcCall], Awaitable[None]]
Router = Callable[[GrpcCall], Handler]
"""Finds the handler of a call by its path and metadata; raises `StreamRefusedError`."""

_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
"""Characters of a status message that are not percent-encoded."""


async def _run(handler: Handler, call: GrpcCall) -> None:
    try:
        await handler(call)
    except StreamRefusedError as refusal:
        call.finish(refusal.status, refusal.sentence)
    except asyncio.CancelledError:
        call.finish(Code.UNAVAILABLE, "the server is stopping")
        raise
    except BaseException:
        call.finish(Code.UNKNOWN, "a fault of the server's")
        raise
    else:
        call.finish(Code.OK)
