"""Exponential back-off: how long to wait before a failed operation is tried again. Pure.

`Backoff` is the policy, `Delays` one run through it:

    delays = Backoff(first=0.1, longest=3.0).delays()
    while True:
        try:
            await operation()
            delays.reset()
        except OutageError:
            await asyncio.sleep(delays.next())

The number of failures is unbounded: the exponent stops growing once the delay has reached its maximum, so that a
long outage cannot overflow it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

Random = Callable[[], float]
"""Returns numbers of [0, 1): `random.random`, that of a seeded generator, or a constant in a test."""

UNJITTERED = (1.0, 1.0)


class Backoff(msgspec.Struct, frozen=True):
    """Delays of `first`, `first * factor`, `first * factor²` … seconds, at most `longest`.

    Raises `ValueError` for figures that make no back-off.
    """

    first: float
    """Seconds before the first retry; above 0."""
    longest: float
    """Seconds; not below `first`. Jitter is applied to what is capped, so a delay may exceed it by the jitter."""
    factor: float = 2.0
    """At least 1; with 1 every delay is `first`."""
    jitter: tuple[float, float] = UNJITTERED
    """Each delay is multiplied by a random number of this range: 0 <= low <= high."""

    def __post_init__(self) -> None:
        low, high = self.jitter
        if not 0 < self.first <= self.longest < math.inf:
            raise ValueError(f"a back-off needs 0 < first <= longest, not {self.first} and {self.longest}")
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"a back-off needs a factor of at least 1, not {self.factor}")
        if not 0 <= low <= high < math.inf:
            raise ValueError(f"a back-off needs a jitter of 0 <= low <= high, not {low} and {high}")

    def delay(self, retry: int, random: Random | None = None) -> float:
        """Seconds to wait before retry number `retry` (the first is 0).

        Raises `ValueError` if the policy has jitter and no `random` is given.
        """
        delay = min(self.longest, self.first * self.factor ** min(max(retry, 0), self._steps()))
        if self.jitter == UNJITTERED:
            return delay
        if random is None:
            raise ValueError("a back-off with jitter needs a source of randomness")
        low, high = self.jitter
        return delay * (low + (high - low) * random())

    def delays(self, random: Random | None = None) -> Delays:
        """Count failures from zero."""
        return Delays(self, random)

    def _steps(self) -> int:
        """Retries after which the delay is certainly the longest."""
        return math.ceil(math.log(self.longest / self.first, self.factor)) + 1 if self.factor > 1 else 0


class Delays:
    """The delays of one operation: growing with each failure, until it succeeds."""

    def __init__(self, policy: Backoff, random: Random | None = None) -> None:
        self._policy = policy
        self._random = random
        self.failures = 0
        """In a row, since the start or the last `reset`."""

    def next(self) -> float:
        """Count a failure; seconds to wait before the next attempt."""
        delay = self._policy.delay(self.failures, self._random)
        self.failures += 1
        return delay

    def reset(self) -> None:
        """The operation succeeded: the next delay is the first again."""
        self.failures = 0
