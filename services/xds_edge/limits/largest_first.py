"""Things by how much they hold, the most first, at a constant price for each change.

Where there are too many of anything (connections that wait, strangers, streams), the one that holds most gives one up
to one that holds less: so one address or pod can fill the house, and keep no other out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class LargestFirst(Generic[T]):
    """Who holds how many."""

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[T, None]] = {}
        self._top = 0
        self.total = 0

    def move(self, one: T, before: int, after: int) -> None:
        """What one of them holds has changed."""
        if before and (level := self._levels.get(before)) is not None:
            level.pop(one, None)
            if not level:
                del self._levels[before]
        if after:
            self._levels.setdefault(after, OrderedDict())[one] = None
        self.total += after - before
        self._top = max(self._top, after)
        while self._top and self._top not in self._levels:
            self._top -= 1

    def most(self) -> tuple[int, T | None]:
        """How many the one holds that holds most, and which it is; of equals the one that has done so longest."""
        return (self._top, next(iter(self._levels[self._top]))) if self._top else (0, None)
