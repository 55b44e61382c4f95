"""Two thousand objects that change: what their statuses cost, and when they are right. In simulated time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from services.ingestor.core.observations import NamespacedName
from services.ingestor.status.reports import ConditionReport, Outcome, ReportPace, RetryLater
from tests.unit.ingestor.churning import OBJECTS, SOON, Mesh, busiest_second, churn, running, simulated


@pytest.mark.parametrize("rate", [50, 1000], ids=["objects rest between changes", "objects hardly rest"])
def test_after_a_churn_of_two_thousand_objects_all_is_right_soon_at_a_bounded_rate(rate: int) -> None:
    async def story() -> None:
        mesh, chance = Mesh(latency=0.005), random.Random(rate)  # noqa: S311 (the same each time)
        running(mesh)
        for number in range(OBJECTS):
            mesh.change(number)
        await asyncio.sleep(SOON)
        assert mesh.wrong() == []
        assert len(mesh.writes) == OBJECTS, "one write each: who acknowledges soon is never said to lag"
        changes = mesh.sequence
        await churn(mesh, seconds=5.0, rate=rate, chance=chance)
        during, changes = len(mesh.writes) - OBJECTS, mesh.sequence - changes
        for number in range(OBJECTS):
            mesh.change(number)
            if number % 20 == 0:
                await asyncio.sleep(1 / rate)
        await asyncio.sleep(SOON)
        assert mesh.wrong() == []
        assert busiest_second(mesh.writes) <= ReportPace().most
        assert mesh.most_at_once <= ReportPace().at_once
        assert during <= changes, "never more writes than changes"
        settled = len(mesh.writes)
        await asyncio.sleep(60)
        assert len(mesh.writes) == settled, "at rest nothing is written"

    simulated(story)


def test_an_object_that_never_rests_costs_little_and_is_not_forgotten() -> None:
    async def story() -> None:
        mesh = Mesh(latency=0.005)
        running(mesh)
        for _ in range(200):
            mesh.change(0)
            await asyncio.sleep(0.45)
        assert 1 <= len(mesh.writes) <= 90 / ReportPace().overdue + 2
        await asyncio.sleep(SOON)
        assert mesh.wrong() == []

    simulated(story)


def test_events_of_a_thousand_objects_that_turn_bad_come_slowly_and_after_the_statuses() -> None:
    async def story() -> None:
        mesh = Mesh(latency=0.005)
        running(mesh)
        for number in range(1000):
            mesh.change(number, bad=True)
        await asyncio.sleep(SOON)
        assert mesh.wrong() == []
        assert len(mesh.news) <= SOON * ReportPace().news + 1
        await asyncio.sleep(1000 / ReportPace().news)
        assert Counter(one.name for one in mesh.news) == Counter(NamespacedName("shop", f"t{n}") for n in range(1000))

    simulated(story)


def test_an_outage_of_the_api_server_is_waited_out_and_then_all_is_right() -> None:
    async def story() -> None:
        mesh = Mesh(latency=0.005)
        write, away = mesh.reporter._write, True  # pyright: ignore[reportPrivateUsage]
        tries: list[float] = []

        async def refuses(report: ConditionReport) -> Outcome | RetryLater:
            if not away:
                return await write(report)
            tries.append(mesh.clock())
            return RetryLater(0.0)

        mesh.reporter._write = refuses  # pyright: ignore[reportPrivateUsage]
        running(mesh)
        for number in range(OBJECTS):
            mesh.change(number)
        await asyncio.sleep(60)
        assert len(tries) <= 60 / ReportPace().outage * ReportPace().at_once
        away = False
        await asyncio.sleep(ReportPace().outage + SOON)
        assert mesh.wrong() == []

    simulated(story)
