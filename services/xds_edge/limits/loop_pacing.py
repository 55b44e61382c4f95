"""When work that can wait goes on: in the next round of the event loop, and later where that round was slow.

One thread does everything here. On a machine that has other work, a process that always has something to do has spent
its share of the processor when a member arrives, and the member waits for it. So what is long (a response of megabytes,
a client that never stops talking) goes on at once while rounds are short, and lets as much time pass as the last round
took when they are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_SHORT = 0.001
"""Seconds that a round may take."""


def call_soon_paced(go: Callable[[], None]) -> asyncio.Handle:
    """Call this soon. What is returned cancels it only before the next round."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    def look() -> None:
        took = loop.time() - began
        if took < _SHORT:
            go()
        else:
            loop.call_later(took, go)

    return loop.call_soon(look)


async def yield_to_loop() -> None:
    """Let others have their turn."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end() -> None:
        if not over.done():
            over.set_result(None)

    call_soon_paced(end)
    await over
