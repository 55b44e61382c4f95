"""The writing side of one connection: frames of the HTTP/2 library, and DATA within the client's windows.

While the network accepts no more bytes, the connection is not read either, so that a client which does not read cannot
cause further responses. A client that reads nothing for long is aborted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.xds_edge.http2.frame_reader import FrameReader
from services.xds_edge.http2.h2_rules import H2Rules

_UNSENT = 256 * 1024
"""Bytes in a connection's buffer above which its calls wait."""
_PART = 4096
"""Bytes of a frame that the edge sends: OpenSSL's buffer grows to the largest write of a connection, and stays so."""


class FrameWriter:
    """The writing side of one connection."""

    __slots__ = ("_given_up", "_loop", "_paused_at", "_reader", "_rules", "_within", "held", "paused", "transport")

    def __init__(self, rules: H2Rules, reader: FrameReader, *, within: float, given_up: Callable[[], None]) -> None:
        """`given_up` is called when the client has read nothing for `within` seconds."""
        self._rules = rules
        self._reader = reader
        self._within = within
        self._given_up = given_up
        self._loop = asyncio.get_running_loop()
        self._paused_at = 0.0
        self.transport: asyncio.Transport | None = None
        """Set while bytes may be written."""
        self.paused = False
        """Whether the network accepts no more bytes."""
        self.held = False
        """Whether `flush` waits: the responses to many frames are written at once."""

    def open(self, transport: asyncio.Transport) -> None:
        """Begin to write."""
        self.transport = transport
        transport.set_write_buffer_limits(high=_UNSENT)

    def flush(self) -> None:
        """Write the pending frames of the library."""
        if self.held:
            return
        content = self._rules.data_to_send()
        if content and self.transport is not None:
            self.transport.write(content)

    def write(self, content: bytes) -> None:
        """Write bytes that are not from the library."""
        if self.transport is not None:
            self.transport.write(content)

    def data(self, stream: int, content: bytes | memoryview) -> int:
        """Send as many bytes of a call as its windows and the network accept; returns their number."""
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
        """Stop reading too: the network accepts no more bytes for now."""
        self.paused = True
        self._paused_at = self._loop.time()
        self._reader.pause(paused=True)
        self._loop.call_later(self._within, self._look, self._paused_at)

    def resume(self) -> None:
        """Read again: the network accepts bytes."""
        self.paused = False
        self._reader.pause(paused=False)

    def close(self) -> None:
        """Close the connection after the buffered bytes are written."""
        if self.transport is not None:
            transport, self.transport = self.transport, None
            if not transport.is_closing():  # to close twice breaks `abort` of TLS
                transport.close()

    def _look(self, since: float) -> None:
        """Give up if the client has read nothing since then."""
        if self.paused and self._paused_at == since:
            self._given_up()
