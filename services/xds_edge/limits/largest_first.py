"""Orders holders by how much they hold, the largest first, at constant cost for each change.

When there is too much of something (waiting connections, unproven connections, streams), the holder of most gives one
up to a holder of fewer. So one address or pod can use all free places, and cannot keep others out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class LargestFirst(Generic[T]):
    """The number of things that each holder holds."""

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[T, None]] = {}
        self._top = 0
        self.total = 0

    def move(self, one: T, before: int, after: int) -> None:
        """Record that the number of one holder changed."""
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
        """The largest number and its holder, or (0, None); among equals the one that has held it longest."""
        return (self._top, next(iter(self._levels[self._top]))) if self._top else (0, None)
