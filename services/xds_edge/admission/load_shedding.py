"""Load shedding: an overloaded edge reports itself unready for a while, so that new proxies go to other edges.

Rate limiting alone does not help an edge whose event loop stays late at the lowest rate: rejected proxies retry against
the same edge. So `/readyz` reports the edge as busy, and the load balancer sends new proxies elsewhere.

Shedding never locks proxies out. The edge still serves every proxy that connects. It is ready again after `UNREADY_FOR`
seconds whatever its load, and then stays ready for at least half of `READY_FOR`. All times are random, so that several
late edges are seldom unready together, and never for longer than `1.5 * UNREADY_FOR`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

LATE_LOOKS = 15
"""Measurements in a row, a tenth of a second apart while streams are opened, that find the loop late at the lowest
rate; up to four times as many, at random."""
UNREADY_FOR = 30.0
"""Seconds of being unready, ± 50 %. A readiness probe of Kubernetes takes 15 of them to act on it."""
READY_FOR = 120.0
"""Seconds of being ready after that, ± 50 %, whatever the load."""

SetReady = Callable[[bool], None]


class LoadShedding:
    """Decides when the edge is out of rotation."""

    def __init__(self, set_ready: SetReady, *, chance: Callable[[], float] = random.random) -> None:
        """`set_ready` is called with whether new proxies may be sent to this edge; `chance` returns 0 to 1."""
        self._set_ready = set_ready
        self._chance = chance
        self._late = 0
        self._limit = self._drawn()
        self._timer: asyncio.TimerHandle | None = None
        self.unready = False

    def look(self, *, late: bool) -> None:
        """Take a measurement: whether the loop was late at the lowest rate."""
        self._late = self._late + 1 if late else 0
        if self._late >= self._limit and self._timer is None:
            self.unready = True
            self._set_ready(False)
            self._after(UNREADY_FOR, self._return)

    def _return(self) -> None:
        self.unready = False
        self._late = 0
        self._set_ready(True)
        self._after(READY_FOR, self._release)

    def _release(self) -> None:
        self._timer = None
        self._late = 0
        self._limit = self._drawn()

    def _drawn(self) -> float:
        return LATE_LOOKS * (1 + 3 * self._chance())

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds * (0.5 + self._chance()), then)
