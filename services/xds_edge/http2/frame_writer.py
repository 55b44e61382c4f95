"""The writing side of one connection: bytes of the HTTP/2 library, DATA within the client's windows, and patience.

While the network takes nothing more, nothing is read either, so that a client cannot make us answer what it does not
read; and one that reads nothing for long is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.xds_edge.http2.frame_reader import FrameReader
from services.xds_edge.http2.h2_rules import H2Rules

_UNSENT = 256 * 1024
"""Bytes that wait in a connection's buffer before its calls wait."""
_PART = 4096
"""Bytes of a frame that we send: OpenSSL's buffer grows to the largest write of a connection, and stays so."""


class FrameWriter:
    """What one connection writes."""

    __slots__ = ("_given_up", "_loop", "_paused_at", "_reader", "_rules", "_within", "held", "paused", "transport")

    def __init__(self, rules: H2Rules, reader: FrameReader, *, within: float, given_up: Callable[[], None]) -> None:
        """`given_up`: the client has read nothing for `within` seconds."""
        self._rules = rules
        self._reader = reader
        self._within = within
        self._given_up = given_up
        self._loop = asyncio.get_running_loop()
        self._paused_at = 0.0
        self.transport: asyncio.Transport | None = None
        """Set as long as anything may be written."""
        self.paused = False
        """Whether the network takes nothing more."""
        self.held = False
        """Whether `flush` waits: what many frames make us say is written at once."""

    def open(self, transport: asyncio.Transport) -> None:
        """Writing begins."""
        self.transport = transport
        transport.set_write_buffer_limits(high=_UNSENT)

    def flush(self) -> None:
        """Write what the library has to say."""
        if self.held:
            return
        content = self._rules.data_to_send()
        if content and self.transport is not None:
            self.transport.write(content)

    def write(self, content: bytes) -> None:
        """Write bytes that are not the library's."""
        if self.transport is not None:
            self.transport.write(content)

    def data(self, stream: int, content: bytes | memoryview) -> int:
        """Send as much of a call's bytes as its windows and the network take; returns the number of bytes."""
        sent, size = 0, len(content)
        while sent < size and not self.paused and self.transport is not None:
            frame, part = self._rules.data(stream, content[sent : sent + _PART])
            if not part:
                break
            sent += part
            self._reader.earn()
            self.transport.write(frame)
        return sent

    def pause(self) -> None:
        """The network takes no more for now: neither do we."""
        self.paused = True
        self._paused_at = self._loop.time()
        self._reader.pause(paused=True)
        self._loop.call_later(self._within, self._look, self._paused_at)

    def resume(self) -> None:
        """It does again."""
        self.paused = False
        self._reader.pause(paused=False)

    def close(self) -> None:
        """Close, once what is buffered is written."""
        if self.transport is not None:
            transport, self.transport = self.transport, None
            if not transport.is_closing():  # to close twice breaks `abort` of TLS
                transport.close()

    def _look(self, since: float) -> None:
        """Give up on a client that has read nothing since then."""
        if self.paused and self._paused_at == since:
            self._given_up()
