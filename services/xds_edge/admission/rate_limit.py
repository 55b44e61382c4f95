"""The rate at which new streams are admitted, adapted to the lateness of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from services.xds_edge.admission.load_shedding import LoadShedding
from shared.timing.token_bucket import TokenBucket

TARGET = 0.25
"""Seconds that the event loop may be late before fewer new streams are admitted."""
_LOOK_AFTER = 0.1
"""Seconds after an attempt to open a stream at which the lateness is measured."""
_FLOOR = 100.0
"""New streams a second that are admitted whatever the load: rate limiting never locks proxies out."""


class StreamRate:
    """New streams a second that may be admitted: a bucket that fills at `rate` and holds `burst`.

    A refused proxy retries within a second. So a storm spreads over as many seconds as it needs, and no proxy is locked
    out.
    """

    def __init__(self, *, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bucket = TokenBucket(rate, burst, clock())

    @property
    def rate(self) -> float:
        """New streams a second; may be changed at any time."""
        return self._bucket.rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._bucket.rate = rate

    def take(self) -> bool:
        """Whether one more stream may be admitted now; it counts as admitted."""
        return self._bucket.take(self._clock())


class LoadWatch:
    """Adapts the rate to the load: while new streams are opened, it measures how late the event loop is.

    A late loop delays the proxies that are already connected. So the rate falls fast, down to a floor, and rises
    slowly, up to the ceiling. Without new streams there is no timer.
    """

    def __init__(self, rate: StreamRate, *, ceiling: float, shedding: LoadShedding | None = None) -> None:
        """`shedding` learns whether the loop stays late at the lowest rate."""
        self._rate = rate
        self._ceiling = ceiling
        self._shedding = shedding
        self._due: float | None = None
        self.lateness = 0.0
        """Seconds, at the newest measurement."""

    def admitted(self) -> None:
        """Measure soon: a stream was admitted or refused."""
        if self._due is None:
            loop = asyncio.get_running_loop()
            self._due = loop.time() + _LOOK_AFTER
            loop.call_at(self._due, self._look)

    def _look(self) -> None:
        due, self._due = self._due, None
        if due is not None:
            self.judge(asyncio.get_running_loop().time() - due)

    def judge(self, lateness: float) -> None:
        """Adapt the rate to the loop's lateness in seconds."""
        self.lateness = lateness
        rate = self._rate.rate
        if lateness > TARGET:
            self._rate.rate = max(min(_FLOOR, self._ceiling), rate * 0.7)
        elif lateness < TARGET / 2:
            self._rate.rate = min(self._ceiling, rate * 1.1)
        if self._shedding is not None:
            self._shedding.look(late=lateness > TARGET and self._rate.rate <= _FLOOR)
