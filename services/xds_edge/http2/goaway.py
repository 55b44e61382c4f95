"""Graceful GOAWAY: asks the client of a connection to go elsewhere, in two steps (RFC 9113, section 6.8).

The first GOAWAY refuses no call, and a PING follows it. When that is answered, or after a second, the client knows. The
second GOAWAY names the last accepted call, so that calls on their way are served. The connection closes with its last
call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hyperframe.frame import GoAwayFrame

from services.xds_edge.http2.frame_writer import FrameWriter
from services.xds_edge.http2.h2_rules import H2Rules

GRACE = 5.0
"""Seconds in which the calls of such a connection must end."""
_PARTING = 1.0
"""Seconds that the answer to the first GOAWAY may take."""
_QUESTION = b"leaving?"
_ALL_STREAMS = 2**31 - 1


class GoAway:
    """The shutdown of one connection."""

    __slots__ = ("_busy", "_close", "_last", "_rules", "_writer", "begun")

    def __init__(
        self, rules: H2Rules, writer: FrameWriter, *, busy: Callable[[], bool], close: Callable[[], None]
    ) -> None:
        """`busy`: whether there are calls; `close` the connection."""
        self._rules = rules
        self._writer = writer
        self._busy = busy
        self._close = close
        self._last: int | None = None
        """The last stream accepted."""
        self.begun = False
        """Whether the client was asked to leave."""

    def begin(self) -> None:
        """Ask the client to go elsewhere; does nothing the second time."""
        if self.begun or self._writer.transport is None:
            return
        self.begun = True
        self._rules.ping(_QUESTION)
        self._writer.flush()
        # Not by h2, which would refuse every later frame.
        self._writer.write(GoAwayFrame(0, last_stream_id=_ALL_STREAMS).serialize())
        asyncio.get_running_loop().call_later(_PARTING, self._conclude)

    def answered(self, ping: bytes) -> None:
        """The client has answered a PING."""
        if ping == _QUESTION:
            self._conclude()

    def refuses(self, stream: int) -> bool:
        """Whether a call came too late."""
        return self._last is not None and stream > self._last

    def rest(self) -> None:
        """The last call has ended."""
        if self._last is not None:
            self._close()

    def _conclude(self) -> None:
        if self._last is not None or self._writer.transport is None:
            return
        self._last = self._rules.highest_inbound_stream_id
        self._writer.write(GoAwayFrame(0, last_stream_id=self._last).serialize())
        asyncio.get_running_loop().call_later(GRACE, self._close)
        if not self._busy():
            self._close()
