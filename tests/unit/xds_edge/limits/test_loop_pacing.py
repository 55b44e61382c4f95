"""What can wait goes on at once while rounds of the loop are short, and pauses as long as a slow one took."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from services.xds_edge.limits.loop_pacing import call_soon_paced, yield_to_loop
from tests.unit.xds_edge.http2.test_write_scheduler import Clock, clock, rounds

__all__ = ["clock"]


async def test_after_a_short_round_it_goes_on_at_once(clock: Clock) -> None:
    gone: list[float] = []
    call_soon_paced(lambda: gone.append(clock.now))
    clock.now += 0.0005
    await rounds(1)
    assert len(gone) == 1


async def test_after_a_slow_round_it_lets_as_much_time_pass(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    later: list[float] = []

    def call_later(delay: float, _go: Callable[[], None]) -> None:
        later.append(delay)

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later)
    call_soon_paced(lambda: pytest.fail("it does not go on yet"))
    clock.now += 0.02
    await rounds(2)
    assert later == [pytest.approx(0.02)]


async def test_to_give_way_is_to_let_every_other_task_run_once() -> None:
    ran = asyncio.Event()
    asyncio.get_running_loop().call_soon(ran.set)
    await asyncio.wait_for(yield_to_loop(), 5)
    assert ran.is_set()


async def test_one_that_is_cancelled_while_it_gives_way_does_no_harm() -> None:
    giving = asyncio.ensure_future(yield_to_loop())
    await asyncio.sleep(0)
    giving.cancel()
    await asyncio.wait([giving])
    await rounds(3)
    assert giving.cancelled()
