"""Policy is judged beside the event loop, one object after the other; who waits is bounded, of all and of each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from services.injector.bench import Bench
from shared.errors import BadInputError, MeshlogError
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
async def bench(**limits: float) -> AsyncGenerator[tuple[Bench, Gate, Callable[[str], asyncio.Task[str]]]]:
    found, gate = Bench(**limits), Gate()  # pyright: ignore[reportArgumentType]
    asked: list[asyncio.Task[str]] = []

    def ask(namespace: str) -> asyncio.Task[str]:
        asked.append(asyncio.ensure_future(found.run(namespace, gate.work)))
        return asked[-1]

    try:
        yield found, gate, ask
    finally:
        gate.open.set()
        await asyncio.gather(*asked, return_exceptions=True)
        found.close()


async def test_the_loop_goes_on_while_an_object_is_judged() -> None:
    async with bench() as (_, gate, ask):
        answer = ask("red")
        await eventually(gate.begun.is_set, within=5, what="it is judged")
        assert not answer.done()
        gate.open.set()
        assert await answer == "done"


async def test_what_the_work_raises_is_raised_here() -> None:
    def refuse() -> None:
        raise BadInputError("smi/regex", "is no expression")

    async with bench() as (found, _, _ask):
        with pytest.raises(BadInputError, match="is no expression"):
            await found.run("red", refuse)


async def test_one_namespace_leaves_room_for_others() -> None:
    async with bench(waiting=3, waiting_of_namespace=2) as (_, gate, ask):
        held = [ask("red"), ask("red")]
        await eventually(gate.begun.is_set, within=5, what="it is judged")
        with pytest.raises(MeshlogError, match="too many objects"):
            await ask("red")
        held.append(ask("blue"))
        await asyncio.sleep(0)
        with pytest.raises(MeshlogError, match="too many objects"):
            await ask("green")
        gate.open.set()
        assert await asyncio.gather(*held) == ["done"] * 3
        assert await ask("red") == "done", "there is room again"


async def test_who_waits_too_long_is_refused_and_its_place_is_free_when_the_work_is_over() -> None:
    async with bench(waiting_of_namespace=1, seconds=0.05) as (_, gate, ask):
        with pytest.raises(MeshlogError, match=r"within 0\.05 s"):
            await ask("red")
        with pytest.raises(MeshlogError, match="too many objects"):
            await ask("red")
        gate.open.set()

        async def free() -> bool:
            try:
                return await ask("red") == "done"
            except MeshlogError:
                return False

        await eventually(free, within=5, what="there is room again")
