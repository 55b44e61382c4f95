"""Waiting for a condition with a deadline: tests synchronise on what they claim, never on time that passes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast, overload

T = TypeVar("T")

_PAUSE = 0.01


@overload
async def eventually(probe: Callable[[], Awaitable[T | None]], *, within: float, what: str) -> T: ...


@overload
async def eventually(probe: Callable[[], T | None], *, within: float, what: str) -> T: ...


async def eventually(probe: Callable[[], T | Awaitable[T | None] | None], *, within: float, what: str) -> T:
    """Probe until it gives something true, and return that; fail with `what` after `within` seconds.

    A probe that raises `AssertionError`, `OSError` or `LookupError` counts as "not yet"; the last of them is the
    failure's cause.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    last: Exception | None = None
    while True:
        try:
            answer = probe()
            value = cast("T", await answer) if inspect.isawaitable(answer) else cast("T", answer)
            if value:
                return value
            last = None
        except (AssertionError, OSError, LookupError) as error:
            last = error
        if loop.time() >= deadline:
            raise AssertionError(f"not within {within:g} s: {what}") from last
        await asyncio.sleep(_PAUSE)
