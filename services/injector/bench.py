"""Judging beside the event loop: what takes long delays no injection, and one namespace's work no other's for long.

RE2 does not let go of Python's lock, so more threads would judge no faster: one does it, and each expression takes it
a few milliseconds at most. What an object may cost is bounded by its budgets; how many may wait is bounded here, of all
and of each namespace. An object that finds no place is refused with a sentence, and its user tries again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from shared.errors import MeshlogError

T = TypeVar("T")

WAITING = 16
"""Objects that may wait or be judged at once."""
WAITING_OF_NAMESPACE = 4
"""Of these, objects of one namespace."""
SECONDS = 5.0
"""Seconds after which an object that still waits is refused; the API server gives up after ten."""


class Bench:
    """Runs pure functions one after the other in a thread."""

    def __init__(
        self, *, waiting: int = WAITING, waiting_of_namespace: int = WAITING_OF_NAMESPACE, seconds: float = SECONDS
    ) -> None:
        self._waiting = waiting
        self._of_namespace = waiting_of_namespace
        self._seconds = seconds
        self._held: Counter[str] = Counter()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="judging")

    async def run(self, namespace: str, work: Callable[[], T]) -> T:
        """The result of `work`, or what it raises. Raises `MeshlogError` if there is no place or no time for it."""
        if self._held.total() >= self._waiting or self._held[namespace] >= self._of_namespace:
            raise MeshlogError(
                "inject/busy",
                "too many objects are being reviewed; try again in a moment",
                about=f"namespace {namespace}",
            )
        self._held[namespace] += 1
        doing = self._thread.submit(work)
        answer = asyncio.wrap_future(doing)
        answer.add_done_callback(lambda done: self._leaves(namespace, done))
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.shield(answer)
        except TimeoutError as error:
            doing.cancel()
            raise MeshlogError(
                "inject/busy", f"was not reviewed within {self._seconds:g} s; try again in a moment"
            ) from error

    def close(self) -> None:
        """Take nothing more, and forget what waits."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _leaves(self, namespace: str, done: asyncio.Future[T]) -> None:
        if not done.cancelled():
            done.exception()  # who asked may be gone
        self._held[namespace] -= 1
        if not self._held[namespace]:
            del self._held[namespace]
