"""Long responses are written in turns, pod after pod, a little in each round of the loop."""

from __future__ import annotations

import asyncio

from services.xds_edge.turns import Turns


async def test_what_fits_into_a_round_does_not_wait() -> None:
    turns = Turns(1000)
    await asyncio.wait_for(turns.take("a", 400), 1)
    await asyncio.wait_for(turns.take("a", 400), 1)


async def test_a_pod_with_much_to_say_lets_another_in_between() -> None:
    turns, order = Turns(100), list[str]()

    async def write(pod: str) -> None:
        await turns.take(pod, 100)
        order.append(pod)

    greedy = [asyncio.ensure_future(write("greedy")) for _ in range(20)]
    await asyncio.sleep(0)
    await write("member")
    await asyncio.gather(*greedy)
    assert order.index("member") <= 3
    assert len(order) == 21


async def test_the_loop_turns_between_two_long_responses() -> None:
    turns, rounds = Turns(100), 0
    done = asyncio.Event()

    async def count() -> None:
        nonlocal rounds
        while not done.is_set():
            rounds += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    await asyncio.gather(*(turns.take("a", 100) for _ in range(50)))
    done.set()
    await counting
    assert rounds >= 49


async def test_one_that_gives_up_while_it_waits_is_passed_over() -> None:
    turns = Turns(100)
    waiting = [asyncio.ensure_future(turns.take("a", 100)) for _ in range(5)]
    await asyncio.sleep(0)
    for one in waiting[1:4]:
        one.cancel()
    await asyncio.wait_for(turns.take("b", 100), 1)
    await asyncio.wait_for(waiting[4], 1)
