"""Work beside the event loop: what takes long delays no other connection, and no asker for longer than its turn.

Python's lock lets one thread work at a time, so more threads of one kind would be no faster. One reviews pods, another
judges policy: a flood of one kind does not stop the other. What one piece may cost is bounded by its body's size and by
the budgets of what it judges; how many wait, and whose turn it is, is bounded in `turns`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services.injector.http.fair_slots import FairSlots, SlotLimits

T = TypeVar("T")


class WorkerThread:
    """Runs pure functions one after the other in a thread."""

    def __init__(self, name: str, caps: SlotLimits) -> None:
        self._turns = FairSlots(caps)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    @property
    def waiting(self) -> int:
        """How many pieces of work wait."""
        return self._turns.waiting

    async def run(self, source: str, namespace: str, work: Callable[[], T]) -> T:
        """The result of `work`, or what it raises. Raises `turns.BusyError` if there is no place or no time for it."""
        async with self._turns.turn(source, namespace):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Take nothing more, and forget what waits."""
        self._thread.shutdown(wait=False, cancel_futures=True)
