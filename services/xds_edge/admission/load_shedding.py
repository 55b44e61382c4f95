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
"""Looks in a row, a tenth of a second apart while streams come, that find the edge late at its slowest pace; up to
four times as many, at random."""
UNREADY_FOR = 30.0
"""Seconds of being unready, ± 50 %; a readiness probe of Kubernetes takes 15 of them to act on it."""
READY_FOR = 120.0
"""Seconds of being ready after that, ± 50 %, whatever the load."""

SetReady = Callable[[bool], None]


class LoadShedding:
    """Whether the edge is out of rotation."""

    def __init__(self, tell: SetReady, *, chance: Callable[[], float] = random.random) -> None:
        """`tell`: whether new proxies may be sent here."""
        self._tell = tell
        self._chance = chance
        self._late = 0
        self._tired = self._drawn()
        self._held: asyncio.TimerHandle | None = None
        self.resting = False

    def look(self, *, late: bool) -> None:
        """Take in whether the edge was late, at its slowest pace, when it was looked at."""
        self._late = self._late + 1 if late else 0
        if self._late >= self._tired and self._held is None:
            self.resting = True
            self._tell(False)
            self._after(UNREADY_FOR, self._return)

    def _return(self) -> None:
        self.resting = False
        self._late = 0
        self._tell(True)
        self._after(READY_FOR, self._release)

    def _release(self) -> None:
        self._held = None
        self._late = 0
        self._tired = self._drawn()

    def _drawn(self) -> float:
        return LATE_LOOKS * (1 + 3 * self._chance())

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        self._held = asyncio.get_running_loop().call_later(seconds * (0.5 + self._chance()), then)
