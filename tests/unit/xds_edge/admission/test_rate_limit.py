"""The rate of new streams, and how it follows the lateness of the event loop."""

from __future__ import annotations

from services.xds_edge.admission.rate_limit import TARGET, LoadWatch, StreamRate
from tests.waiting import eventually


def test_the_bucket_fills_as_time_passes() -> None:
    now = 0.0
    rate = StreamRate(rate=10, burst=2, clock=lambda: now)
    assert [rate.take() for _ in range(3)] == [True, True, False]
    now = 0.1
    assert [rate.take() for _ in range(2)] == [True, False]
    now = 100.0
    assert [rate.take() for _ in range(3)] == [True, True, False]


def test_a_late_loop_lowers_the_rate_to_a_floor_and_a_prompt_one_lets_it_rise() -> None:
    rate = StreamRate(rate=1000, burst=10)
    watch = LoadWatch(rate, ceiling=1000)
    for _ in range(100):
        watch.judge(TARGET * 2)
    assert 0 < rate.rate <= 100
    for _ in range(100):
        watch.judge(0.0)
    assert rate.rate == 1000


async def test_the_lateness_is_measured_only_after_an_attempt() -> None:
    watch = LoadWatch(StreamRate(rate=1000, burst=10), ceiling=1000)
    watch.lateness = -1.0
    watch.admitted()
    await eventually(lambda: watch.lateness >= 0, within=5, what="a look")
