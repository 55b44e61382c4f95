"""Paces long work: it continues in the next round of the event loop, and later if that round was slow.

One thread does everything. On a machine with other work, a process that is always busy has used up its share of the
processor when a member connects, and the member waits. So long work (a response of megabytes, a client that sends
without pause) continues at once while rounds are short; otherwise it pauses for as long as the last round took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_SHORT = 0.001
"""Seconds that a short round may take."""


def call_soon_paced(go: Callable[[], None]) -> asyncio.Handle:
    """Call `go` soon. Cancelling the handle works only before the next round."""
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
    """Let other work of the event loop run."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end() -> None:
        if not over.done():
            over.set_result(None)

    call_soon_paced(end)
    await over
