"""Turns on the event loop: long work pauses every few milliseconds, so that the lease and health checks go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from services.compiler.time_slices import Steps

T = TypeVar("T")

SLICE = 0.02
"""Seconds of work after which others have their turn."""


class LoopTurns:
    """One worker's share of the event loop."""

    def __init__(self, clock: Callable[[], float] | None = None, *, seconds: float = SLICE) -> None:
        """`clock` is the event loop's unless it is given."""
        self._clock = clock or asyncio.get_running_loop().time
        self._seconds = seconds
        self._until = self._clock() + seconds

    async def pause(self) -> None:
        """Let others have their turn, if it is time."""
        if self._clock() >= self._until:
            await asyncio.sleep(0)
            self._until = self._clock() + self._seconds

    async def finish(self, steps: Steps[T]) -> T:
        """Do all steps, with pauses between them; the result."""
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value
            await self.pause()
