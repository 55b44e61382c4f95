"""An overloaded edge is taken out of rotation, for a while, and never for good."""

from __future__ import annotations

import asyncio

import pytest

from services.xds_edge.admission import load_shedding
from services.xds_edge.admission.load_shedding import LATE_LOOKS, LoadShedding
from services.xds_edge.admission.rate_limit import TARGET, LoadWatch, StreamRate
from services.xds_edge.app import App
from services.xds_edge.settings import EdgeSettings
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_shedding, "UNREADY_FOR", 0.03)
    monkeypatch.setattr(load_shedding, "READY_FOR", 0.3)


async def test_a_slow_pace_is_tried_before_relief_is_asked_for() -> None:
    told: list[bool] = []
    pace = StreamRate(rate=1000, burst=10)
    watch = LoadWatch(pace, ceiling=1000, shedding=LoadShedding(told.append, chance=lambda: 0.0))
    while pace.rate > 100:
        watch.judge(TARGET * 2)
        assert told == []
    for _ in range(LATE_LOOKS):
        watch.judge(TARGET * 2)
    assert told == [False]


async def test_a_moment_of_lateness_changes_nothing() -> None:
    told: list[bool] = []
    one = LoadShedding(told.append)
    for _ in range(20):
        for _ in range(LATE_LOOKS - 1):
            one.look(late=True)
        one.look(late=False)
    assert told == []


async def test_it_comes_back_by_itself_though_it_is_still_late_and_stays() -> None:
    told: list[bool] = []
    one = LoadShedding(told.append, chance=lambda: 0.5)
    loop = asyncio.get_running_loop()

    def late() -> bool:
        one.look(late=True)
        return told == [False, True]

    await eventually(late, within=5, what="it comes back")
    back = loop.time()
    await eventually(lambda: late() or len(told) > 2, within=5, what="a look")
    while len(told) < 3 and loop.time() < back + 5:
        one.look(late=True)
        await asyncio.sleep(0.001)
    assert told == [False, True, False]
    assert loop.time() - back > 0.29


async def test_edges_that_are_all_late_do_not_rest_together() -> None:
    """Drawn at random: over a while, hardly ever are all of three out."""
    edges = [LoadShedding(lambda _: None) for _ in range(3)]
    loop = asyncio.get_running_loop()
    end, looks, none = loop.time() + 1.0, 0, 0
    while loop.time() < end:
        for one in edges:
            one.look(late=True)
        looks += 1
        none += all(one.unready for one in edges)
        await asyncio.sleep(0.002)
    assert looks > 50
    assert none < looks / 2


async def test_an_edge_says_so_on_its_readiness() -> None:
    said: list[tuple[str, bool]] = []
    edge = App(EdgeSettings(), instance="e", ready=lambda name, ready, _why: said.append((name, ready)))
    watch = edge.admission.watch
    assert watch is not None
    for _ in range(4 * LATE_LOOKS + 20):
        watch.judge(TARGET * 2)
    assert said[-1] == ("load", False)
    await eventually(lambda: said[-1] == ("load", True), within=5, what="it is back")
