"""The bytes of a message that could not be sent at once: sent in pieces, as its turn comes and windows allow.

The pieces are views of the message. A response of megabytes, made once for a class of proxies, may be under way to
hundreds of streams without a copy for any of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Protocol

_FIRST = 4096
"""Bytes that a frame carries: the prefix of a message is sent in the frame of its beginning."""


class SendTransport(Protocol):
    """The connection that carries the bytes."""

    def send(self, stream: int, content: bytes | memoryview) -> int:
        """Send as many bytes as may be sent now; returns their number."""
        ...

    def queue(self, send_queue: SendQueue) -> None:
        """Call `proceed` when it is its turn."""
        ...


class SendQueue:
    """The rest of one message; a `ScheduledWrite`."""

    __slots__ = ("_asked", "_delay", "_loop", "_parts", "_sender", "_stream", "begun", "sent")

    def __init__(self, sender: SendTransport, stream: int, parts: Iterable[bytes | memoryview], *, begun: bool) -> None:
        """`begun`: whether a part of the message was sent already, or would have been if the client had room."""
        self._sender = sender
        self._stream = stream
        self._parts = deque(memoryview(part) for part in parts if part)
        self._loop = asyncio.get_running_loop()
        self._asked: float | None = None
        """When it began to wait for its turn."""
        self._delay = 0.0
        self.begun = begun
        """Whether it had its turn: from then on nothing else may be sent in its stream."""
        self.sent: asyncio.Future[None] = self._loop.create_future()
        """Done once all of it is sent."""

    def queue(self) -> None:
        """Wait for a turn: more bytes may be sent."""
        if self._asked is None and self._parts:
            self._asked = self._loop.time()
            self._sender.queue(self)

    @property
    def delay(self) -> float:
        """Seconds that it has waited for its turn, which is not the fault of its client."""
        return self._delay + (self._loop.time() - self._asked if self._asked is not None else 0.0)

    def proceed(self, most: int) -> tuple[int, bool]:
        """Send at most `most` bytes; returns how many were sent, and whether more can be sent."""
        self._delay, self._asked = self.delay, None
        self.begun = self.begun or bool(self._parts)
        written, parts, blocked = 0, self._parts, False
        while parts and written < most and not blocked:
            part = parts[0]
            piece = part[: most - written]
            sent = self._sender.send(self._stream, piece)
            written += sent
            blocked = sent < len(piece)
            if sent == len(part):
                parts.popleft()
            elif sent:
                parts[0] = part[sent:]
        again = bool(parts) and not blocked
        if again:
            self._asked = self._loop.time()
        if not parts and not self.sent.done():
            self.sent.set_result(None)
        return written, again

    def drop(self) -> None:
        """Drop the rest of it."""
        self._parts.clear()


def pieces(prefix: bytes, parts: Iterable[bytes]) -> list[bytes | memoryview]:
    """A message and its prefix, in pieces that copy nothing but the beginning."""
    first, *rest = parts
    most = _FIRST - len(prefix)
    return [prefix + first[:most], memoryview(first)[most:], *rest]
