"""How fast requests begin: as much as is needed, bounded in every second, and slower for a server that asks."""

from __future__ import annotations

import random

import pytest

from services.ingestor.status.write_rate import WriteRate
from tests.unit.ingestor.churning import busiest_second

LEAST, MOST, DRAIN = 20.0, 800.0, 2.0


def begun(tempo: WriteRate, number: int, *, late: float = 0.0, chance: random.Random | None = None) -> list[float]:
    """When so many begin, of a process that wakes this much later than it wanted, at most."""
    now, found = 100.0, list[float]()
    for _ in range(number):
        while (delay := tempo.delay(now)) > 0:
            now += delay + (chance.uniform(0.0, late) if chance is not None else late)
        tempo.begin(now)
        found.append(now)
    return found


@pytest.mark.parametrize("late", [0.0, 0.004, 0.01])
def test_a_process_that_wakes_late_is_as_fast_and_in_no_second_faster_than_the_bound(late: float) -> None:
    tempo = WriteRate(least=LEAST, most=MOST, drain=DRAIN)
    tempo.set_backlog(100_000)
    moments = begun(tempo, 4000, late=late, chance=random.Random(7))  # noqa: S311 (the same each time)
    assert busiest_second(moments) <= MOST
    assert 4000 / (moments[-1] - moments[0]) > 0.95 * MOST


def test_a_pause_is_not_made_up_for() -> None:
    tempo = WriteRate(least=LEAST, most=MOST, drain=DRAIN)
    tempo.set_backlog(100_000)
    tempo.begin(0.0)
    assert busiest_second(begun(tempo, 2000)) <= MOST


def test_few_take_their_time_and_more_that_come_meanwhile_take_no_longer() -> None:
    tempo = WriteRate(least=LEAST, most=MOST, drain=DRAIN)
    tempo.set_backlog(10)
    assert tempo.rate == LEAST
    tempo.set_backlog(400)
    assert tempo.rate == 400 / DRAIN
    tempo.set_backlog(1)
    assert tempo.rate == 400 / DRAIN, "it is never slower while something waits"
    tempo.reset()
    assert tempo.rate == LEAST


def test_after_a_server_asked_for_less_the_rate_is_half_and_grows_with_what_it_takes() -> None:
    tempo = WriteRate(least=LEAST, most=MOST, drain=DRAIN)
    tempo.set_backlog(100_000)
    top = tempo.rate
    tempo.slow_down()
    assert tempo.rate == top / 2
    for _ in range(20):
        tempo.slow_down()
    assert tempo.rate == LEAST, "it is tried on"
    seconds = 0
    while tempo.rate < top:
        for _ in range(int(tempo.rate)):
            tempo.succeeded()
        seconds += 1
        assert seconds < 60
    assert seconds > 5
