"""One gRPC call as the server sees it: messages out of a stream of bytes, messages into it, and a status at its end.

The rules are those of gRPC's "PROTOCOL-HTTP2": each message is preceded by a flag for compression and by its length,
the status travels in the trailers. What carries the bytes is `http2`'s business.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from typing import Protocol
from urllib.parse import quote

from services.xds_edge.admission import StreamRefusedError

_PREFIX = 5
_ACKNOWLEDGE = 16 * 1024
"""Bytes read after which the client's window is opened again."""

Headers = Sequence[tuple[str, str]]

RESPONSE: Headers = (
    (":status", "200"),
    ("content-type", "application/grpc"),
    ("grpc-accept-encoding", "identity"),
)


class Code(IntEnum):
    """The status codes that the edge gives (gRPC, "Status codes and their use")."""

    OK = 0
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Carrier(Protocol):
    """The connection below a call."""

    @property
    def peer(self) -> str:
        """Address of the client."""
        ...

    def headers(self, stream: int, headers: Headers, *, ends: bool) -> None:
        """Send headers, or trailers that end our side."""
        ...

    def send(self, stream: int, content: bytes) -> int:
        """Send as much as may be sent now; returns the number of bytes."""
        ...

    def acknowledge(self, stream: int, size: int) -> None:
        """Let the client send that many bytes more."""
        ...

    def finished(self, stream: int, *, whole: bool) -> None:
        """The call is over on our side. `whole`: not in the middle of a message."""
        ...


class Call:
    """One call."""

    __slots__ = (
        "_arrived",
        "_broken",
        "_carrier",
        "_client_done",
        "_held",
        "_limit",
        "_opened",
        "_owed",
        "_partial",
        "_reader",
        "_stream",
        "_writer",
        "ended",
        "metadata",
        "path",
        "task",
    )

    def __init__(self, carrier: Carrier, stream: int, headers: Headers, *, limit: int) -> None:
        """`limit`: bytes that a message of the client may have."""
        self._carrier = carrier
        self._stream = stream
        self._limit = limit
        self.path = next((value for name, value in headers if name == ":path"), "")
        self.metadata: Headers = [pair for pair in headers if not pair[0].startswith(":")]
        self.task: asyncio.Task[None] | None = None
        self.ended = False
        """Whether nothing can be sent any more."""
        self._arrived: deque[tuple[bytes, int]] | None = None
        self._held = b""
        self._partial: bytearray | None = None
        self._client_done = False
        self._broken: StreamRefusedError | None = None
        self._opened = False
        self._owed = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    @property
    def peer(self) -> str:
        """Address of the client."""
        return self._carrier.peer

    # What the handler does

    async def read(self) -> bytes | None:
        """The next message; none: the client has ended its side. Raises `StreamRefusedError`."""
        while not self._arrived:
            if self._broken is not None:
                raise self._broken
            if self._client_done:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        message, size = self._arrived.popleft()
        self._acknowledge(size)
        return message

    async def write(self, message: bytes) -> None:
        """Send a message; waits while the client, or the network, takes no more. Raises `StreamRefusedError`."""
        if self.ended:
            raise StreamRefusedError("UNAVAILABLE", "stream/gone", "the client has gone")
        content = b"".join((b"\0", len(message).to_bytes(4, "big"), message))
        if not self._opened:
            self._opened = True
            self._carrier.headers(self._stream, RESPONSE, ends=False)
        sent = self._carrier.send(self._stream, content)
        if sent == len(content):
            return
        self._held = content[sent:]
        while self._held:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer
            self._held = self._held[self._carrier.send(self._stream, self._held) :]

    def finish(self, code: Code, sentence: str = "") -> None:
        """End the call with this status; a second time it does nothing."""
        if self.ended:
            return
        self.ended = True
        whole = not self._held
        if whole:
            status = (("grpc-status", str(int(code))), ("grpc-message", quote(sentence, safe=_PLAIN)))
            self._carrier.headers(self._stream, status if self._opened else (*RESPONSE, *status), ends=True)
        self._release()
        self._carrier.finished(self._stream, whole=whole)

    # What the connection does

    def serve(self, handler: Callable[[Call], Awaitable[None]]) -> None:
        """Run the handler; it is cancelled if the client goes away."""
        self.task = asyncio.ensure_future(_run(handler, self))

    def receive(self, content: bytes, size: int) -> None:
        """Take bytes of the client's; `size`: what they took of its window."""
        if self._broken is not None:
            self._acknowledge(size)
            return
        if self._partial is None and len(content) >= _PREFIX:
            length = int.from_bytes(content[1:_PREFIX], "big")
            if len(content) == _PREFIX + length and not content[0] and length <= self._limit:
                self._deliver(content[_PREFIX:], size)
                return
        partial = self._partial = self._partial or bytearray()
        partial += content
        try:
            left = self._split(partial, size)
        except StreamRefusedError as error:
            self._broken = error
            self._partial = None
            left = size
            self._wake()
        self._acknowledge(left)

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

    def writable(self) -> None:
        """More may be sent."""
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    @property
    def half_closed(self) -> bool:
        """Whether the client has ended its side."""
        return self._client_done

    def _split(self, partial: bytearray, size: int) -> int:
        """Take whole messages off the front; returns how much of `size` belongs to none of them yet."""
        at = 0
        while len(partial) - at >= _PREFIX:
            if partial[at]:
                raise StreamRefusedError("UNIMPLEMENTED", "stream/compressed", "messages must not be compressed")
            length = int.from_bytes(partial[at + 1 : at + _PREFIX], "big")
            if length > self._limit:
                raise StreamRefusedError(
                    "RESOURCE_EXHAUSTED",
                    "stream/message-too-long",
                    f"a message of {length} bytes; {self._limit} are the most",
                )
            end = at + _PREFIX + length
            if len(partial) < end:
                break
            weight = min(size, end - at)
            size -= weight
            self._deliver(bytes(partial[at + _PREFIX : end]), weight)
            at = end
        if at == len(partial):
            self._partial = None
        else:
            del partial[:at]
        return size

    def _deliver(self, message: bytes, size: int) -> None:
        # Its window opens when it is read: a client cannot fill us with what nobody reads.
        if self._arrived is None:
            self._arrived = deque()
        self._arrived.append((message, size))
        self._wake()

    def _acknowledge(self, size: int) -> None:
        self._owed += size
        if self._owed >= _ACKNOWLEDGE:
            owed, self._owed = self._owed, 0
            self._carrier.acknowledge(self._stream, owed)

    def _release(self) -> None:
        """Give back what the call's unread bytes took of the window that all calls of the connection share."""
        owed = self._owed + sum(size for _, size in self._arrived or ())
        self._owed, self._arrived, self._partial = 0, None, None
        self._carrier.acknowledge(self._stream, owed)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
"""What a status message holds as it is; all else is percent-encoded."""


async def _run(handler: Callable[[Call], Awaitable[None]], call: Call) -> None:
    try:
        await handler(call)
    except StreamRefusedError as refusal:
        call.finish(Code[refusal.status], refusal.sentence)
    except asyncio.CancelledError:
        call.finish(Code.UNAVAILABLE, "the server is stopping")
        raise
    except BaseException:
        call.finish(Code.UNKNOWN, "a fault of the server's")
        raise
    else:
        call.finish(Code.OK)
