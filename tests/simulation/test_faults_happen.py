"""The simulation's own means: crashes fall at the await that was drawn, a freeze stops all, messages come late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from shared.eventlog.protocol import Draft, LogUnavailableError
from shared.records.snapshot import CDS
from shared.records.subjects import Streams
from tests.simulation.arrival import lacking
from tests.simulation.clock import NothingWillHappenError, SimulatedLoop, TooBusyError
from tests.simulation.disk import FileDisk
from tests.simulation.ledger import Ledger, RecordedLogs
from tests.simulation.life import Life, task_factory
from tests.simulation.network import Link, LinkedLog

STREAMS = Streams()


def simulated(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run on a simulated clock."""
    loop = SimulatedLoop()
    loop.set_task_factory(cast("Any", task_factory))
    try:
        loop.run_until_complete(main())
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(1))
        loop.close()


async def counting(seen: list[int], number: int = 10) -> None:
    """A part of a process that records its progress at each await."""
    for step in range(number):
        await asyncio.sleep(1)
        seen.append(step)


@pytest.mark.parametrize("fuse", [1, 4, 10])
def test_a_process_dies_at_the_await_that_was_drawn_and_takes_what_it_spawned_along(fuse: int) -> None:
    seen: list[int] = []
    ended: list[bool] = []

    async def main() -> None:
        life = Life(lambda: life.end())  # noqa: PLW0108 (it is not there yet)
        life.fuse = fuse

        async def part() -> None:
            await asyncio.get_running_loop().create_task(counting(seen))
            ended.append(True)

        life.spawn(part())
        await asyncio.sleep(30)

    simulated(main)
    assert seen == [*range(fuse - 1)]
    assert not ended


def test_a_frozen_process_takes_no_step_and_its_timeouts_run_out_when_it_goes_on() -> None:
    told: list[tuple[str, float]] = []

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        life = Life(lambda: None)

        async def part() -> None:
            try:
                async with asyncio.timeout(2):
                    await asyncio.sleep(100)
            except TimeoutError:
                told.append(("timeout", clock()))

        life.spawn(part())
        await asyncio.sleep(1)
        life.freeze()
        await asyncio.sleep(8)
        assert not told
        life.thaw()
        await asyncio.sleep(1)

    simulated(main)
    assert [(what, round(at)) for what, at in told] == [("timeout", 9)]


@pytest.mark.parametrize(("way", "written"), [("deaf", {1}), ("mute", {0, 1})])
def test_a_one_way_partition_loses_the_answer_or_the_request_which_may_come_late(way: str, written: set[int]) -> None:
    """Mute: what was sent arrives late, or never."""
    found: set[int] = set()

    async def main() -> None:
        for seed in range(20):
            chance = random.Random(seed)  # noqa: S311 (repeatable on purpose)
            link = Link(chance, Life(lambda: None))
            logs = RecordedLogs(STREAMS, Ledger(STREAMS), clock=lambda: 0, chance=chance)
            stream = logs.stream(STREAMS.status)
            link.change(**{way: True})
            with pytest.raises(LogUnavailableError):
                await LinkedLog(stream, link).publish(Draft("mesh.status.x", b"?"))
            await asyncio.sleep(0.1)
            assert len(stream.sequences) == (way == "deaf")
            link.mend()
            await asyncio.sleep(1)
            found.add(len(stream.sequences))

    simulated(main)
    assert found == written


def test_a_crash_while_an_edge_writes_its_file_leaves_the_one_before() -> None:
    async def main() -> None:
        disk = FileDisk(random.Random(1))  # noqa: S311 (repeatable on purpose)
        await disk.write(b"old")
        life = Life(lambda: life.end())  # noqa: PLW0108 (it is not there yet)
        life.fuse = 3
        life.spawn(disk.write(b"new"))
        await asyncio.sleep(1)
        assert life.dead
        assert disk.read() == b"old"

    simulated(main)


async def _waits() -> None:
    await asyncio.get_running_loop().create_future()


async def _circles() -> None:
    while True:  # noqa: ASYNC110 (that is the mistake)
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("work", "error", "why"), [(_waits, NothingWillHappenError, "waits for ever"), (_circles, TooBusyError, "circles")]
)
def test_who_waits_for_ever_and_who_goes_round_in_circles_is_told(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[], Coroutine[Any, Any, None]], error: type[Exception], why: str
) -> None:
    monkeypatch.setattr("tests.simulation.clock.TURNS", 100)
    loop = SimulatedLoop()
    task = loop.create_task(work())
    with pytest.raises(error, match=why):
        loop.run_until_complete(task)
    monkeypatch.undo()
    task.cancel()
    loop.run_until_complete(asyncio.wait({task}))
    loop.close()


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ({"a": "1"}, ""),
        ({"a": "1", "b": "1"}, ""),
        ({"a": "2", "b": "1"}, ""),
        ({"b": "1"}, "has not Cluster a"),
        ({"a": "0"}, "holds another Cluster a"),
        ({"a": "1", "gone": "1"}, "holds another Cluster gone"),
    ],
)
def test_a_version_is_held_also_on_the_way_to_a_later_one(held: dict[str, str], says: str) -> None:
    """The version has `a`; the one after it changes that and adds `b`."""
    assert lacking({CDS: held}, [{CDS: {"a": "1"}}, {CDS: {"a": "2", "b": "1"}}]) == says
