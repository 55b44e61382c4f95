"""When which part of a log was written, as far as looking at its size now and then tells.

Containers write to their files themselves, so lines carry no time. What a file had grown to at a moment bounds the time
of every byte before: a line's time is when it was first seen, at most the pause between two looks after it was written.
"""

from __future__ import annotations

from bisect import bisect_right

_MOST = 8192
"""Moments kept for one log: half an hour of one that grows all the time; beyond, older ones are merged by pairs."""


class LineTimes:
    """The growth of one log. Places are counted over all of it, also what was cut off at its beginning."""

    def __init__(self) -> None:
        self.cut_off = 0
        """Bytes before the beginning of the file."""
        self._ends: list[int] = []
        self._times: list[float] = []

    def note(self, size: int, now: float) -> None:
        """The file has so many bytes now (seconds since 1970)."""
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
        """The file begins anew, after so many bytes."""
        self.cut_off += size

    def of(self, place: int) -> float:
        """When the byte at this place was first seen (seconds since 1970)."""
        index = min(bisect_right(self._ends, place), len(self._times) - 1)
        return self._times[index] if self._times else 0.0
