"""Reports: few, prompt where a person waits, and none lost over an outage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.xds_edge.proxy_status.reporter import StatusReporter
from shared.eventlog.memory import MemoryLog
from shared.records.proxy_status import ProxyStatus, decode_status
from shared.records.subjects import Streams
from tests.waiting import eventually


def status(pod: str = "p", *, edge: str = "me", connected: bool = True, since: int = 0) -> ProxyStatus:
    return ProxyStatus(
        cluster="c", namespace="n", pod=pod, uid="u", service_account="s", edge=edge, connected=connected, since=since
    )


class Case:
    def __init__(self) -> None:
        self.log = MemoryLog()
        self.reporter = StatusReporter(streams=Streams(), edge="me")

    async def written(self) -> list[ProxyStatus]:
        return [decode_status(record.payload) async for record in self.log.read()]


@pytest.fixture
async def case() -> AsyncIterator[Case]:
    made = Case()
    task = asyncio.ensure_future(made.reporter.run(made.log))
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_somebody_waits_for_is_written_at_once(case: Case) -> None:
    case.reporter.note("k", status, urgent=True)
    async with asyncio.timeout(0.04):
        await case.reporter.flushed()
    assert len(await case.written()) == 1


async def test_partial_moves_are_gathered(case: Case) -> None:
    for number in range(10):
        case.reporter.note("k", lambda number=number: status(since=number), urgent=False)
    await case.reporter.flushed()
    assert [one.since for one in await case.written()] == [9]


async def test_the_complete_replaces_the_partial(case: Case) -> None:
    case.reporter.note("k", lambda: status(since=1), urgent=False)
    case.reporter.note("k", lambda: status(since=2), urgent=True)
    await case.reporter.flushed()
    assert [one.since for one in await case.written()] == [2]


async def test_an_outage_loses_only_what_was_replaced(case: Case) -> None:
    case.log.down()
    case.reporter.note("a", lambda: status("a", since=1), urgent=True)
    case.reporter.note("b", lambda: status("b", since=1), urgent=True)
    await asyncio.sleep(0)
    case.reporter.note("a", lambda: status("a", since=2), urgent=True)
    case.log.up()
    await eventually(lambda: case.reporter.written >= 2, within=5, what="both are written")
    await case.reporter.flushed()
    newest = {one.pod: one.since for one in await case.written()}
    assert newest == {"a": 2, "b": 1}


async def test_an_end_is_not_reported_over_another_edges_word(case: Case) -> None:
    other = StatusReporter(streams=Streams(), edge="other")
    task = asyncio.ensure_future(other.run(case.log))
    other.note("k", lambda: status(edge="other"), urgent=True)
    await other.flushed()
    case.reporter.note("k", lambda: status(connected=False), urgent=True, ended=True)
    await case.reporter.flushed()
    assert [one.edge for one in await case.written()] == ["other"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_end_is_reported_over_its_own_word(case: Case) -> None:
    case.reporter.note("k", status, urgent=True)
    await case.reporter.flushed()
    case.reporter.note("k", lambda: status(connected=False), urgent=True, ended=True)
    await case.reporter.flushed()
    assert [one.connected for one in await case.written()] == [True, False]
