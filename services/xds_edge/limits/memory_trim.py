"""Gives memory back to the machine after many connections or large requests have gone.

The C library keeps what was freed for later, which after a flood is never: the limit of a pod counts it all the same.
`malloc_trim` gives it back. It takes some milliseconds, so it runs on a thread, and only when much has gone.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from collections.abc import Callable

_log = logging.getLogger(__name__)

EVERY = 30.0
"""Seconds between two looks."""
MANY = 200
"""Connections, or calls that held too much, that have gone since the last time."""

Trim = Callable[[int], int]


def trimmer() -> Trim | None:
    """`malloc_trim(3)`, where the C library has it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda kept: int(trim(kept))


async def reclaim(gone: Callable[[], int], trim: Trim | None, *, every: float = EVERY) -> None:
    """Look for ever; `gone` counts what has gone since the start."""
    before = gone()
    while trim is not None:
        await asyncio.sleep(every)
        now = gone()
        if now - before >= MANY:
            before = now
            given_back = await asyncio.to_thread(trim, 0)
            _log.debug("memory was %s", "given back" if given_back else "in use")
