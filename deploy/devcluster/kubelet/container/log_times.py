"""Estimates when each part of a log was written, from periodic records of its size. Pure.

Containers write to their files themselves, so lines have no timestamps. The time of a line is that of the first record
that includes it: at most one interval between two records late.
"""

from __future__ import annotations

from bisect import bisect_right

_MOST = 8192
"""Records per log: half an hour of constant growth. Beyond it, older records are merged in pairs."""


class LineTimes:
    """The growth of one log. Offsets count from its beginning, including truncated parts."""

    def __init__(self) -> None:
        self.cut_off = 0
        """Bytes that were truncated before the current file."""
        self._ends: list[int] = []
        self._times: list[float] = []

    def note(self, size: int, now: float) -> None:
        """Record the size of the file at `now` (seconds since 1970)."""
        end = self.cut_off + size
        if self._ends and end <= self._ends[-1]:
            return
        self._ends.append(end)
        self._times.append(now)
        if len(self._ends) > _MOST:
            half = _MOST // 2
            self._ends[:half] = self._ends[1:half:2]
            self._times[:half] = self._times[1:half:2]

    def cut(self, size: int) -> None:
        """Record that the file was truncated at this size."""
        self.cut_off += size

    def of(self, place: int) -> float:
        """Time at which the byte at this offset was first recorded (seconds since 1970)."""
        index = min(bisect_right(self._ends, place), len(self._times) - 1)
        return self._times[index] if self._times else 0.0
