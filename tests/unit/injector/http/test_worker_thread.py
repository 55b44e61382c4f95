"""Reviews are worked on beside the event loop, and their askers take turns: by source, and then by namespace."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.injector.http.fair_slots import BusyError, FairSlots, SlotLimits
from services.injector.http.worker_thread import WorkerThread
from shared.errors import BadInputError
from tests.waiting import eventually


class Gate:
    """Work that ends when it is let."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def work(self) -> str:
        self.begun.set()
        assert self.open.wait(10)
        return "done"


@asynccontextmanager
async def bench(**caps: Any) -> AsyncGenerator[tuple[WorkerThread, Gate, Callable[[str], asyncio.Task[str]]]]:
    found, gate = WorkerThread("test", SlotLimits(**caps)), Gate()
    asked: list[asyncio.Task[str]] = []

    def ask(where: str) -> asyncio.Task[str]:
        source, _, namespace = where.partition("/")
        asked.append(asyncio.ensure_future(found.run(source, namespace, gate.work)))
        return asked[-1]

    try:
        yield found, gate, ask
    finally:
        gate.open.set()
        await asyncio.gather(*asked, return_exceptions=True)
        found.close()


async def test_the_loop_goes_on_while_an_object_is_judged() -> None:
    async with bench() as (_, gate, ask):
        answer = ask("a/red")
        await eventually(gate.begun.is_set, within=5, what="it is judged")
        assert not answer.done()
        gate.open.set()
        assert await answer == "done"


async def test_what_the_work_raises_is_raised_here() -> None:
    def refuse() -> None:
        raise BadInputError("smi/regex", "is no expression")

    async with bench() as (found, _, _ask):
        with pytest.raises(BadInputError, match="is no expression"):
            await found.run("a", "red", refuse)


async def test_one_namespace_leaves_room_for_others_of_its_source() -> None:
    async with bench(waiting_of_source=4, waiting_of_namespace=2) as (_, gate, ask):
        held = [ask("api/red")]
        await eventually(gate.begun.is_set, within=5, what="it is judged")
        held += [ask("api/red"), ask("api/red")]
        with pytest.raises(BusyError, match="too many objects"):
            await ask("api/red")
        held += [ask("api/blue"), ask("api/blue")]
        with pytest.raises(BusyError, match="too many objects"):
            await ask("api/green")
        gate.open.set()
        assert await asyncio.gather(*held) == ["done"] * 5
        assert await ask("api/red") == "done", "there is room again"


async def test_an_asker_that_waits_too_long_is_refused() -> None:
    async with bench(seconds=0.05) as (found, gate, ask):
        held = ask("a/red")
        await eventually(gate.begun.is_set, within=5, what="it is judged")
        with pytest.raises(BusyError, match=r"within 0\.05 s"):
            await ask("a/red")
        assert found.waiting == 0
        gate.open.set()
        assert await held == "done"


async def order(caps: SlotLimits, *askers: str) -> list[str]:
    """In which order askers that come at once get their turn, the first of them excluded."""
    turns = FairSlots(caps)
    got: list[str] = []

    async def ask(where: str) -> None:
        source, _, namespace = where.partition("/")
        async with turns.turn(source, namespace):
            got.append(where)
            await asyncio.sleep(0)

    async with turns.turn("nobody"):
        tasks = [asyncio.ensure_future(ask(where)) for where in askers]
        for _ in range(3):
            await asyncio.sleep(0)
        assert turns.waiting == len(askers)
    await asyncio.gather(*tasks)
    assert (turns.held, turns.waiting) == (0, 0)
    return got


async def test_a_source_that_asks_without_end_delays_another_by_one_turn() -> None:
    flood = ["stranger"] * 50
    assert (await order(SlotLimits(waiting_of_namespace=64), *flood, "api/red")).index("api/red") <= 1


async def test_a_namespace_that_asks_without_end_delays_another_of_its_source_by_one_turn() -> None:
    flood = ["api/red"] * 50
    assert (await order(SlotLimits(waiting_of_namespace=64), *flood, "api/blue")).index("api/blue") <= 1


async def test_when_all_places_are_taken_a_source_gets_one_of_the_source_that_has_most() -> None:
    turns = FairSlots(SlotLimits(waiting=4, waiting_of_source=4))

    async def ask(source: str) -> str:
        async with turns.turn(source):
            return "done"

    async with turns.turn("nobody"):
        flood = [asyncio.ensure_future(ask("stranger")) for _ in range(4)]
        await asyncio.sleep(0)
        wanted = asyncio.ensure_future(ask("api"))
        results = await asyncio.gather(flood[-1], return_exceptions=True)
        assert isinstance(results[0], BusyError), "the newest of the flood gave way"
    assert await asyncio.gather(*flood[:3], wanted) == ["done"] * 4


async def test_a_source_may_hold_only_its_share_of_the_slots() -> None:
    turns = FairSlots(SlotLimits(slots=4, slots_of_source=2))
    async with turns.turn("a"), turns.turn("a"):
        third = asyncio.ensure_future(_hold(turns, "a"))
        await asyncio.sleep(0)
        assert turns.waiting == 1
        async with turns.turn("b"):
            assert turns.held == 3
    await third
    assert (turns.held, turns.waiting) == (0, 0)


async def test_an_asker_that_goes_away_leaves_nothing_behind() -> None:
    """Cancelled while it waits, and cancelled in the moment that it gets its turn."""
    turns = FairSlots(SlotLimits())
    async with turns.turn("a"):
        waits = asyncio.ensure_future(_hold(turns, "b"))
        await asyncio.sleep(0)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        assert turns.waiting == 0
        gets = asyncio.ensure_future(_hold(turns, "b"))
        await asyncio.sleep(0)
    gets.cancel()
    await asyncio.gather(gets, return_exceptions=True)
    assert (turns.held, turns.waiting) == (0, 0)


async def test_an_asker_whose_time_is_over_as_a_slot_becomes_free_is_passed_over() -> None:
    """Its task has not run yet when the slot is handed out."""
    turns = FairSlots(SlotLimits())
    async with turns.turn("a"):
        late = asyncio.ensure_future(_hold(turns, "b"))
        waits = asyncio.ensure_future(_hold(turns, "b"))
        await asyncio.sleep(0)
        late.cancel()
    await asyncio.gather(late, waits, return_exceptions=True)
    assert late.cancelled()
    assert not waits.cancelled()
    assert waits.exception() is None
    assert (turns.held, turns.waiting) == (0, 0)


async def _hold(turns: FairSlots, source: str) -> None:
    async with turns.turn(source):
        await asyncio.sleep(0)
