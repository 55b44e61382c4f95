"""The reading side of one connection: parses as many frames as its allowance pays for, at most one read ahead.

A connection in debt is not read, so its bytes wait in the network. A connection that exceeds its allowance for `debt`
seconds without a break is closed. A connection whose client does not read is not read either, so that the client cannot
cause further responses.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from h2.errors import ErrorCodes

from services.xds_edge.http2.frame_meter import FrameError, FrameMeter
from services.xds_edge.limits.loop_pacing import call_soon_paced
from shared.timing.token_bucket import TokenBucket

UNPROVEN_RATE = 50.0
"""Frames a second of a connection without a token yet; a first call costs about 20."""
UNPROVEN_BURST = 150.0
EARNED = 16.0
"""Frames that a client may send for each frame that it receives. An Envoy that names its node in each acknowledgement
(61 kB) sends 5, which cost 12; gRPC opens its windows and probes beside that."""
_A_TURN = 32.0
"""Cost of the frames of one connection that are parsed before other connections are served."""
_SHORTEST_PAUSE = 0.05


class FrameSink(Protocol):
    """The connection that receives the frames."""

    def feed(self, frame: bytes) -> None:
        """Parse this complete frame."""
        ...

    def fed(self) -> None:
        """No more frames for now."""
        ...

    def fail(self, code: ErrorCodes, reason: str) -> None:
        """End the connection because of its client."""
        ...


class FrameReader:
    """The reading side of one connection."""

    __slots__ = (
        "_address_allowance",
        "_allowance",
        "_debt",
        "_indebted",
        "_loop",
        "_meter",
        "_paused",
        "_reading",
        "_resuming",
        "_sink",
        "_transport",
    )

    def __init__(self, sink: FrameSink, *, debt: float, address_allowance: TokenBucket | None) -> None:
        """`address_allowance`: frames that all connections of the address without a token may send together."""
        self._sink = sink
        self._debt = debt
        self._address_allowance = address_allowance
        self._loop = asyncio.get_running_loop()
        self._allowance = TokenBucket(UNPROVEN_RATE, UNPROVEN_BURST, self._loop.time())
        self._meter = FrameMeter()
        self._transport: asyncio.Transport | None = None
        self._indebted: float | None = None
        """When the allowance was first exceeded; None while it is not."""
        self._resuming: asyncio.Handle | None = None
        self._paused = False
        self._reading = True

    def open(self, transport: asyncio.Transport) -> None:
        """Begin to read."""
        self._transport = transport

    def close(self) -> None:
        """The connection is closed."""
        self._transport = None
        if self._resuming is not None:
            self._resuming.cancel()

    def trust(self, frames: TokenBucket) -> None:
        """Replace the allowance: a call of the connection showed a token."""
        self._allowance, self._address_allowance = frames, None

    def earn(self) -> None:
        """Raise the allowance: a frame was sent to the client."""
        self._allowance.earn(EARNED)

    def pause(self, *, paused: bool) -> None:
        """Stop reading while the client does not read."""
        self._paused = paused
        self._adjust()

    def add(self, content: bytes, now: float) -> None:
        """Add bytes from the network; `now` by the clock of the loop."""
        self._meter.add(content)
        if self._resuming is None:
            self._pump(now)

    def _pump(self, now: float) -> None:
        room, meter = _A_TURN, self._meter
        while self._transport is not None:
            # Both change when the first call shows a token.
            allowance, address_allowance = self._allowance, self._address_allowance
            allowed = room > 0 and allowance.may(now) and (address_allowance is None or address_allowance.may(now))
            try:
                frame, price = meter.next(allowed=allowed)
            except FrameError as error:
                self._sink.fail(error.code, "frame")
                return
            if not frame:
                break
            room -= price
            allowance.spend(price)
            if address_allowance is not None:
                address_allowance.spend(price)
            # One frame at a time, so that the state of the library is never ahead of the calls.
            self._sink.feed(frame)
            if not meter.rest:
                break
        if self._transport is None:
            return
        self._sink.fed()
        if meter.waiting:
            self._hold_back(now, may_go_on=room <= 0)
        elif self._indebted is not None and self._allowance.easy(now):
            self._indebted = None

    def _hold_back(self, now: float, *, may_go_on: bool) -> None:
        wait = max(
            self._allowance.wait(now), self._address_allowance.wait(now) if self._address_allowance is not None else 0.0
        )
        if wait <= 0 and may_go_on:
            self._resuming = call_soon_paced(self._resume)
        elif self._indebted is not None and now - self._indebted >= self._debt:
            self._sink.fail(ErrorCodes.ENHANCE_YOUR_CALM, "flood")
            return
        else:
            if self._indebted is None:
                self._indebted = now
            self._resuming = self._loop.call_later(max(_SHORTEST_PAUSE, wait), self._resume)
        self._adjust()

    def _resume(self) -> None:
        self._resuming = None
        self._pump(self._loop.time())
        self._adjust()

    def _adjust(self) -> None:
        wanted = not self._paused and self._resuming is None
        if self._transport is not None and wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            (self._transport.resume_reading if wanted else self._transport.pause_reading)()
