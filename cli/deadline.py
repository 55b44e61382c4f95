"""A verb's `--timeout`, which bounds all of it: also what it reads before it waits, of a log that does not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from cli import output

TIMED_OUT = 124
_GRACE = 0.5
"""Seconds beyond the timeout for a verb that knows how far things have come to say so."""


class Deadline:
    """When a verb must have ended."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left; 0: none."""
        return max(0.0, self._until - time.monotonic())


def run(work: Callable[[Deadline], Awaitable[int]], seconds: float) -> int:
    """Run a verb to its end, or to the deadline; its exit code, or 124 with a sentence."""

    async def bounded() -> int:
        try:
            async with asyncio.timeout(seconds + _GRACE):
                return await work(Deadline(seconds))
        except TimeoutError:
            output.line(f"not known after {seconds:g} s: the log is slow, or does not answer; meshlog status")
            return TIMED_OUT

    return asyncio.run(bounded())
