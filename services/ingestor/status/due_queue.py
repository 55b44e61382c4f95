"""Queue of objects by the time at which their status is due. Pure: the caller passes the time.

A changed object is due once it has rested, so that a flood of changes causes few writes; one that never rests is due
from time to time all the same. A written object is held for a while.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

import msgspec

K = TypeVar("K", bound=Hashable)


class _Entry(msgspec.Struct):
    ready: float
    """Time at which it is due, its hold included."""
    wanted: float
    """Time at which it would be due without a hold."""
    since: float
    """Time at which it began to wait."""


class DueQueue(Generic[K]):
    """Keys and their times, in seconds of any monotonic clock."""

    def __init__(self, *, settle: float, overdue: float) -> None:
        """`settle`: seconds that an object must rest; `overdue`: longest wait of one that never rests."""
        self._settle = settle
        self._overdue = overdue
        self._entries: dict[K, _Entry] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._number = 0
        self._hold: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def changed(self, key: K, now: float) -> None:
        """The object has changed: due when it has rested."""
        held = self._entries.get(key)
        since = now if held is None else held.since
        self._set(key, min(now + self._settle, since + self._overdue), since)

    def enqueue(self, key: K, now: float) -> None:
        """The object's conditions may have changed: due now, unless it waits already."""
        if key not in self._entries:
            self._set(key, now, now)

    def postpone(self, key: K, until: float) -> None:
        """Make it due at `until`."""
        held = self._entries.get(key)
        self._set(key, until, until if held is None else held.since)

    def hold(self, key: K, until: float) -> None:
        """Make it due no earlier than `until`; replaces an earlier hold."""
        self._hold[key] = until
        if key in self._entries:
            self._set(key, self._entries[key].wanted, self._entries[key].since)

    def forget(self, key: K) -> None:
        """Remove a deleted object."""
        self._entries.pop(key, None)
        self._hold.pop(key, None)

    def take(self, now: float, most: int) -> list[K]:
        """Remove and return up to `most` due objects, the longest due first."""
        found: list[K] = []
        while self._heap and self._heap[0][0] <= now and len(found) < most:
            ready, _, key = heapq.heappop(self._heap)
            held = self._entries.get(key)
            if held is not None and held.ready == ready:
                del self._entries[key]
                found.append(key)
        return found

    def ripe(self, now: float) -> int:
        """Returns the number of due objects."""
        return sum(held.ready <= now for held in self._entries.values())

    def next(self) -> float | None:
        """Returns the time at which the next object is due, or None if none waits."""
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
