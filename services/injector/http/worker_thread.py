"""Runs long work in a thread beside the event loop, so that it delays no other connection.

Python's global lock lets one thread work at a time, so more threads for one kind of work would not be faster. One
thread reviews pods, another validates policy: a flood of one kind does not stop the other. The cost of one piece of
work is bounded by the size of its body and by the budgets; `fair_slots` bounds how many pieces wait, and their order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services.injector.http.fair_slots import FairSlots, SlotLimits

T = TypeVar("T")


class WorkerThread:
    """Runs pure functions one after the other in a thread of its own."""

    def __init__(self, name: str, caps: SlotLimits) -> None:
        self._turns = FairSlots(caps)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    @property
    def waiting(self) -> int:
        """Number of pieces of work that wait."""
        return self._turns.waiting

    async def run(self, source: str, namespace: str, work: Callable[[], T]) -> T:
        """Return the result of `work`. Raises what it raises, and `BusyError` if there is no slot for it in time."""
        async with self._turns.turn(source, namespace):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Accept no more work, and drop what waits."""
        self._thread.shutdown(wait=False, cancel_futures=True)
