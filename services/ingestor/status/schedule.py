"""When which object's status is looked at: a queue without a clock of its own. Pure.

An object that changes is looked at once it has rested, so that a flood of changes costs few writes; one that never
rests is looked at now and then all the same. What was written is not written again for a while.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

import msgspec

K = TypeVar("K", bound=Hashable)


class _Entry(msgspec.Struct):
    ready: float
    wanted: float
    """When it would be, were it not held."""
    since: float
    """When it began to wait."""


class Due(Generic[K]):
    """Keys and their times, seconds of any steady clock."""

    def __init__(self, *, settle: float, overdue: float) -> None:
        """`settle`: how long an object has to rest; `overdue`: how long one waits at most that never does."""
        self._settle = settle
        self._overdue = overdue
        self._entries: dict[K, _Entry] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._number = 0
        self._hold: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def changed(self, key: K, now: float) -> None:
        """The object itself is another: wait until it rests."""
        held = self._entries.get(key)
        since = now if held is None else held.since
        self._set(key, min(now + self._settle, since + self._overdue), since)

    def stir(self, key: K, now: float) -> None:
        """Something else about it may be to be said."""
        if key not in self._entries:
            self._set(key, now, now)

    def postpone(self, key: K, until: float) -> None:
        """Look at it again then."""
        held = self._entries.get(key)
        self._set(key, until, until if held is None else held.since)

    def hold(self, key: K, until: float) -> None:
        """Do not look at it before; what was said of that earlier does not count any more."""
        self._hold[key] = until
        if key in self._entries:
            self._set(key, self._entries[key].wanted, self._entries[key].since)

    def forget(self, key: K) -> None:
        """The object is gone."""
        self._entries.pop(key, None)
        self._hold.pop(key, None)

    def take(self, now: float, most: int) -> list[K]:
        """Up to so many whose time has come, who waits longest first; they wait no more."""
        found: list[K] = []
        while self._heap and self._heap[0][0] <= now and len(found) < most:
            ready, _, key = heapq.heappop(self._heap)
            held = self._entries.get(key)
            if held is not None and held.ready == ready:
                del self._entries[key]
                found.append(key)
        return found

    def ripe(self, now: float) -> int:
        """How many have their time."""
        return sum(held.ready <= now for held in self._entries.values())

    def next(self) -> float | None:
        """When the next one's time comes; none: nothing waits."""
        while self._heap:
            ready, _, key = self._heap[0]
            held = self._entries.get(key)
            if held is not None and held.ready == ready:
                return ready
            heapq.heappop(self._heap)
        return None

    def _set(self, key: K, wanted: float, since: float) -> None:
        ready = max(wanted, self._hold.get(key, wanted))
        held = self._entries.get(key)
        if held is not None and held.ready == ready:
            held.wanted = wanted
            return
        self._entries[key] = _Entry(ready, wanted, since)
        self._number += 1
        heapq.heappush(self._heap, (ready, self._number, key))
        if len(self._heap) > 4 * len(self._entries) + 64:
            self._heap = [(entry.ready, number, key) for number, (key, entry) in enumerate(self._entries.items())]
            self._number = len(self._heap)
            heapq.heapify(self._heap)
