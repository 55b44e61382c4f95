"""Memory is given back when much has gone, and left alone otherwise."""

from __future__ import annotations

import asyncio

from services.xds_edge.limits.memory_trim import MANY, reclaim, trimmer
from tests.waiting import eventually


async def test_memory_is_given_back_once_much_has_gone() -> None:
    gone, trims = 0, list[int]()

    def trim(kept: int) -> int:
        trims.append(kept)
        return 1

    looking = asyncio.ensure_future(reclaim(lambda: gone, trim, every=0.01))
    await asyncio.sleep(0.05)
    gone = MANY - 1
    await asyncio.sleep(0.05)
    assert not trims
    gone = MANY
    await eventually(lambda: trims, within=5, what="memory is given back")
    await asyncio.sleep(0.05)
    assert trims == [0]
    looking.cancel()


async def test_the_c_library_is_asked() -> None:
    trim = trimmer()
    assert trim is None or trim(0) in {0, 1}
    if trim is None:
        await asyncio.wait_for(reclaim(lambda: 0, trim), 1)
