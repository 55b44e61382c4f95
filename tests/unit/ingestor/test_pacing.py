"""Statuses of two thousand objects when the API server, or the moment at which they come to rest, is awkward."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable

import pytest

from services.ingestor.core.observations import NamespacedName
from services.ingestor.status.conditions import Condition
from services.ingestor.status.reports import ConditionReport, ObjectEvent, Outcome, ReportPace, RetryLater
from services.ingestor.status.status_evaluator import conditions_in
from tests.unit.ingestor.churning import CLASSES, OBJECTS, PROXIES, SOON, Mesh, busiest_second, running, simulated

PACE = ReportPace()


class Server:
    """What stands before a mesh's API server and may have another answer."""

    def __init__(self, mesh: Mesh, answer: Callable[[ConditionReport], RetryLater | float]) -> None:
        """`answer`: a refusal, or seconds that the request takes longer."""
        self.written: Counter[NamespacedName] = Counter()
        self.tries: list[float] = []
        self.refused: list[float] = []
        self._mesh, self._write, self._answer = mesh, mesh.reporter._write, answer  # pyright: ignore[reportPrivateUsage]
        mesh.reporter._write = self  # pyright: ignore[reportPrivateUsage]

    async def __call__(self, report: ConditionReport) -> Outcome | RetryLater:
        self.tries.append(self._mesh.clock())
        answer = self._answer(report)
        if isinstance(answer, RetryLater):
            await asyncio.sleep(self._mesh.latency)
            self.refused.append(self._mesh.clock())
            return answer
        await asyncio.sleep(answer)
        self.written[report.object.name] += 1
        return await self._write(report)


def told(mesh: Mesh, name: str) -> dict[str, Condition]:
    return {one["type"]: one for one in conditions_in(mesh.living[NamespacedName("shop", name)].status)}


@pytest.mark.parametrize("first", [1, 20, 200])
def test_the_first_that_come_to_rest_do_not_set_the_pace_of_all_others(first: int) -> None:
    async def story() -> None:
        mesh = Mesh(latency=0.02)
        running(mesh)
        for number in range(first):
            mesh.change(number)
        await asyncio.sleep(0.3)
        for number in range(first, OBJECTS):
            mesh.change(number)
        least = PACE.settle + OBJECTS / PACE.most
        await asyncio.sleep(least + 0.6)
        assert mesh.wrong() == []
        assert len(mesh.writes) == OBJECTS
        assert busiest_second(mesh.writes) <= PACE.most

    simulated(story)


def test_one_that_the_server_keeps_waiting_keeps_no_other_and_is_not_written_twice_at_once() -> None:
    async def story() -> None:
        mesh = Mesh(latency=0.005)
        stuck = NamespacedName("shop", "t0")
        server = Server(mesh, lambda report: 40.0 if report.object.name == stuck else 0.0)
        running(mesh)
        for number in range(OBJECTS):
            mesh.change(number)
        await asyncio.sleep(SOON)
        assert [one.partition(":")[0] for one in mesh.wrong()] == [str(stuck)]
        # Statuses of its class arrive again and again, so it is evaluated.
        for number in (20, 40, 60):
            mesh.change(number)
            await asyncio.sleep(SOON)
            assert [one.partition(":")[0] for one in mesh.wrong()] == [str(stuck)]
        await asyncio.sleep(40)
        assert mesh.wrong() == []
        assert server.written[stuck] == 1

    simulated(story)


def test_what_changes_while_a_status_is_on_its_way_is_told_after_it() -> None:
    async def story() -> None:
        mesh = Mesh(latency=1.0)
        running(mesh)
        mesh.change(0)
        await asyncio.sleep(PACE.settle + 0.5)
        assert mesh.requests == 1
        for number in range(0, PROXIES, CLASSES):
            mesh.disconnect(number)
        await asyncio.sleep(SOON)
        assert told(mesh, "t0")["Programmed"]["reason"] == "NoProxies"
        assert len(mesh.writes) == 2

    simulated(story)


def test_of_a_slow_server_no_more_is_asked_at_once() -> None:
    async def story() -> None:
        mesh = Mesh(latency=0.2)
        running(mesh)
        for number in range(OBJECTS):
            mesh.change(number)
        await asyncio.sleep(PACE.settle + OBJECTS * 0.2 / PACE.at_once + 1.0)
        assert mesh.wrong() == []
        assert mesh.most_at_once == PACE.at_once
        assert len(mesh.writes) == OBJECTS

    simulated(story)


def test_a_server_that_takes_less_has_the_pauses_that_it_asks_for_and_is_asked_for_less() -> None:
    async def story() -> None:
        mesh, taken = Mesh(latency=0.005), list[float]()

        def answer(_: ConditionReport) -> RetryLater | float:
            """It accepts 200 in a second, and refuses more with a delay."""
            if sum(moment > mesh.clock() - 1.0 for moment in taken[-200:]) >= 200:
                return RetryLater(2.0)
            taken.append(mesh.clock())
            return 0.0

        server = Server(mesh, answer)
        running(mesh)
        for number in range(OBJECTS):
            mesh.change(number)
        await asyncio.sleep(24)
        assert mesh.wrong() == []
        refused = server.refused
        pauses = [one for before, one in itertools.pairwise([-1.0, *refused]) if one > before + 1.0]
        assert pauses, "it had to ask"
        for asked in pauses:
            later = [moment for moment in server.tries if asked + 0.1 < moment < asked + 2.0]
            assert later == []
        again = [moment for moment in server.tries if pauses[0] + 2.0 <= moment < pauses[0] + 3.2]
        assert len(again) >= 190, "nor is it asked for next to nothing"
        assert len(pauses) <= 6, "it is not asked for as much again and again"

    simulated(story)


def test_a_server_that_asks_for_an_hour_is_asked_again_in_a_minute() -> None:
    async def story() -> None:
        mesh, refusing = Mesh(latency=0.005), True
        server = Server(mesh, lambda _: RetryLater(3600.0) if refusing else 0.0)
        running(mesh)
        mesh.change(0)
        await asyncio.sleep(PACE.asked)
        assert len(server.refused) == 1
        refusing = False
        await asyncio.sleep(SOON)
        assert mesh.wrong() == []

    simulated(story)


def test_events_have_the_pause_that_the_server_asks_for() -> None:
    async def story() -> None:
        mesh, asked = Mesh(latency=0.005), list[float]()

        async def tell(_: ObjectEvent) -> Outcome | RetryLater:
            asked.append(mesh.clock())
            return RetryLater(30.0) if len(asked) == 1 else Outcome.WRITTEN

        mesh.reporter.events._write = tell  # pyright: ignore[reportPrivateUsage]
        running(mesh)
        mesh.change(0, bad=True)
        await asyncio.sleep(60)
        assert len(asked) == 2
        assert asked[1] - asked[0] == pytest.approx(30.0)

    simulated(story)
