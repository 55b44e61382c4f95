"""How fast requests to the API server may begin: enough to bring what waits in time, bounded, and slower when asked.

Pure: it is told the time. What waits may grow while it is brought (a flood of changes comes to rest object by
object), so the rate is aimed again all the while, and never lower before nothing waits. Requests that began late
because their process had no processor are made up for, for as long as `_GRAIN`; not more, for the bound holds in
every second (a `TokenBucket` would let its burst go on top of the bound after each rest). A server that asks for a
pause has it, and half the rate after it, growing again with each success.
"""

from __future__ import annotations

_GRAIN = 0.02
"""Seconds that a request may begin early: to sleep for less costs more than it spreads."""
_EASED = 0.5
_GROWTH = 0.25
"""Requests a second that each success gives back: in a second a quarter of the rate."""


class Tempo:
    """One bound for all requests of a kind."""

    def __init__(self, *, least: float, most: float, drain: float) -> None:
        """`least` and `most`: requests a second; `drain`: seconds in which all that waits is to be brought."""
        # In no second more than `most`: one at its beginning, and those at its end that are early.
        self._top = max(most / 2, (most - 1) / (1 + _GRAIN))
        self._least = min(least, self._top)
        self._drain = drain
        self._ceiling = self._top
        self._aimed = self._least
        self._next = 0.0

    @property
    def rate(self) -> float:
        """Requests a second, now."""
        return min(self._aimed, self._ceiling)

    def aim(self, waiting: int) -> None:
        """So many wait."""
        self._aimed = max(self._aimed, waiting / self._drain)

    def rest(self) -> None:
        """Nothing waits any more."""
        self._aimed = self._least

    def delay(self, now: float) -> float:
        """Seconds until the next one may begin; 0: now."""
        ahead = self._next - now
        return ahead - _GRAIN / 2 if ahead > _GRAIN else 0.0

    def begin(self, now: float) -> None:
        """One begins."""
        self._next = max(self._next, now) + 1 / self.rate

    def succeeded(self) -> None:
        """The server took one."""
        self._ceiling = min(self._top, self._ceiling + _GROWTH)

    def ease(self) -> None:
        """The server has asked for less."""
        self._ceiling = max(self._least, self.rate * _EASED)
