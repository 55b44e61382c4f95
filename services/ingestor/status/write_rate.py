"""Adaptive rate of requests to the API server: fast enough for the backlog, bounded, slower on request. Pure.

The caller passes the time. The backlog may grow while it is written (a flood of changes comes to rest object by
object), so the rate is adapted all the while, and not lowered before the backlog is empty. Requests that began late
because the process had no CPU are made up for, by up to `_GRAIN`; not more, because the bound holds in every second (a
`TokenBucket` would add its burst to the bound after each rest). After a server requested a pause, half the rate is
used, growing again with each success.
"""

from __future__ import annotations

_GRAIN = 0.02
"""Seconds that a request may begin early: shorter sleeps cost more than they spread the load."""
_EASED = 0.5
_GROWTH = 0.25
"""Requests a second that each success gives back: in a second a quarter of the rate."""


class WriteRate:
    """One rate for all requests of a kind."""

    def __init__(self, *, least: float, most: float, drain: float) -> None:
        """`least`, `most`: requests per second; `drain`: seconds in which the backlog must be written."""
        # At most `most` in any second: one at its beginning, and the early ones at its end.
        self._top = max(most / 2, (most - 1) / (1 + _GRAIN))
        self._least = min(least, self._top)
        self._drain = drain
        self._ceiling = self._top
        self._aimed = self._least
        self._next = 0.0

    @property
    def rate(self) -> float:
        """Current requests per second."""
        return min(self._aimed, self._ceiling)

    def set_backlog(self, waiting: int) -> None:
        """Raise the rate for a number of waiting requests."""
        self._aimed = max(self._aimed, waiting / self._drain)

    def reset(self) -> None:
        """Return to the least rate: the backlog is empty."""
        self._aimed = self._least

    def delay(self, now: float) -> float:
        """Returns the seconds until the next request may begin; 0: now."""
        ahead = self._next - now
        return ahead - _GRAIN / 2 if ahead > _GRAIN else 0.0

    def begin(self, now: float) -> None:
        """Record the begin of a request."""
        self._next = max(self._next, now) + 1 / self.rate

    def succeeded(self) -> None:
        """Raise the ceiling: the server accepted a request."""
        self._ceiling = min(self._top, self._ceiling + _GROWTH)

    def slow_down(self) -> None:
        """Halve the rate: the server requested a pause."""
        self._ceiling = max(self._least, self.rate * _EASED)
