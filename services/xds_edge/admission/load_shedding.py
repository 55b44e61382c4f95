"""When the edge asks its balancer for relief: unready for a while, so that new proxies go to other edges.

An edge that is late for a second and a half, though it takes new streams as slowly as it ever does, is not helped by
pacing alone: the refused come back to it. So it says on `/readyz` that it is busy, and a balancer takes it out.

It never locks anybody out. It goes on serving whoever comes; it is back after `REST` seconds whatever its load, and
stays for at least half of `SPELL`; and all times are drawn at random, so that edges that are all late hardly ever are
out together, and never for longer than `1.5 * REST`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

TIRED = 15
"""Looks in a row, a tenth of a second apart while streams come, that find the edge late at its slowest pace; up to
four times as many, at random."""
REST = 30.0
"""Seconds of being unready, ± 50 %; a readiness probe of Kubernetes takes 15 of them to act on it."""
SPELL = 120.0
"""Seconds of being ready after that, ± 50 %, whatever the load."""

Tell = Callable[[bool], None]


class Relief:
    """Whether the edge is out of rotation."""

    def __init__(self, tell: Tell, *, chance: Callable[[], float] = random.random) -> None:
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
            self._after(REST, self._return)

    def _return(self) -> None:
        self.resting = False
        self._late = 0
        self._tell(True)
        self._after(SPELL, self._release)

    def _release(self) -> None:
        self._held = None
        self._late = 0
        self._tired = self._drawn()

    def _drawn(self) -> float:
        return TIRED * (1 + 3 * self._chance())

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        self._held = asyncio.get_running_loop().call_later(seconds * (0.5 + self._chance()), then)
