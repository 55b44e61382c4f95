"""A token bucket: how much of something may be taken at once and per second. Pure; the caller passes the time.

One bucket counts one thing of one peer: frames of a pod, TLS handshakes of an address, certificates, log lines. What
is bounded by number and not by rate (streams at a time, refused calls of a connection) needs a counter, no bucket.
"""

from __future__ import annotations


class TokenBucket:
    """Fills at `rate` tokens a second and holds at most `burst`; full at first.

    `now` is in seconds of a clock that is not set back. A reading that is older than the last one adds nothing.
    """

    __slots__ = ("_burst", "_filled", "_level", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        """Tokens a second; may be changed at any time, and holds from the last reading on."""
        self._burst = burst
        self._level = burst
        self._filled = now

    def left(self, now: float) -> float:
        """Tokens that may be taken now; below zero: a debt."""
        if now > self._filled:
            self._level = min(self._burst, self._level + (now - self._filled) * self.rate)
            self._filled = now
        return self._level

    def may(self, now: float) -> bool:
        """Whether anything is left. What time has added is computed only when the rest is spent."""
        return self._level > 0 or self.left(now) > 0

    def take(self, now: float) -> bool:
        """Take one token if there is one; whether it was taken."""
        if self.left(now) < 1:
            return False
        self._level -= 1
        return True

    def spend(self, amount: float) -> None:
        """Take tokens, into debt if need be: the caller has asked `may`, and the price is known only afterwards."""
        self._level -= amount

    def earn(self, amount: float) -> None:
        """Add tokens, up to the burst."""
        self._level = min(self._burst, self._level + amount)

    def easy(self, now: float) -> bool:
        """Whether half of the burst, or more, is left."""
        return self.left(now) >= self._burst / 2

    def full(self, now: float) -> bool:
        """Whether nothing is spent: a bucket made anew would be the same."""
        return self.left(now) >= self._burst

    def wait(self, now: float) -> float:
        """Seconds until `take` succeeds."""
        return max(0.0, (1.0 - self.left(now)) / self.rate)
