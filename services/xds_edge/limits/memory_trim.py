"""Returns memory to the operating system after many connections or large requests have ended.

The C library keeps freed memory for later use, which after a flood never comes; the memory limit of the pod counts it
all the same. `malloc_trim` returns it. That takes some milliseconds, so it runs on a thread, and only after much was
freed.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from collections.abc import Callable

_log = logging.getLogger(__name__)

EVERY = 30.0
"""Seconds between two checks."""
MANY = 200
"""Connections, or calls that held too much, that must have ended since the last trim."""

Trim = Callable[[int], int]


def trimmer() -> Trim | None:
    """`malloc_trim(3)`, or None if the C library has none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda kept: int(trim(kept))


async def reclaim(gone: Callable[[], int], trim: Trim | None, *, every: float = EVERY) -> None:
    """Check until cancelled; `gone` returns the number of connections and calls that have ended since the start."""
    before = gone()
    while trim is not None:
        await asyncio.sleep(every)
        now = gone()
        if now - before >= MANY:
            before = now
            given_back = await asyncio.to_thread(trim, 0)
            _log.debug("memory was %s", "given back" if given_back else "in use")
