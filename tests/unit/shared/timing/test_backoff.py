"""Exponential back-off: growth, bounds, jitter and validation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.timing.backoff import Backoff

PROJECT = Path(__file__).parents[4]


def test_delays_grow_to_the_longest_and_start_anew_after_success() -> None:
    delays = Backoff(first=1.0, longest=30.0).delays()
    assert [delays.next() for _ in range(7)] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert delays.failures == 7
    delays.reset()
    assert [delays.next(), delays.next()] == [1.0, 2.0]


def test_the_factor_is_kept() -> None:
    delays = Backoff(first=0.1, longest=10.0, factor=1.1).delays()
    assert [round(delays.next(), 6) for _ in range(3)] == [0.1, 0.11, 0.121]


@pytest.mark.parametrize(("first", "longest", "factor"), [(0.02, 1.0, 2.0), (5.0, 5.0, 2.0), (1.0, 9.0, 1.0)])
def test_a_long_outage_does_not_overflow(first: float, longest: float, factor: float) -> None:
    policy = Backoff(first=first, longest=longest, factor=factor)
    assert policy.delay(10**9) == (longest if factor > 1 else first)


@given(
    first=st.floats(0.001, 100),
    ratio=st.floats(1, 10_000),
    factor=st.floats(1.001, 10),
    jitter=st.tuples(st.floats(0, 2), st.floats(0, 2)).map(lambda pair: (min(pair), max(pair))),
    retry=st.integers(0, 100_000),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_delay_is_the_capped_power_within_its_jitter(  # noqa: PLR0917
    first: float, ratio: float, factor: float, jitter: tuple[float, float], retry: int, chance: float
) -> None:
    longest = first * ratio
    plain = longest
    for power in range(min(retry, 20_000) + 1):
        if first * factor**power >= longest:
            break
    else:
        plain = first * factor**retry
    delay = Backoff(first=first, longest=longest, factor=factor, jitter=jitter).delay(retry, lambda: chance)
    low, high = jitter
    assert plain * low - 1e-9 <= delay <= plain * high + 1e-9


def test_jitter_spreads_over_its_whole_range() -> None:
    policy = Backoff(first=2.0, longest=8.0, jitter=(0.5, 1.5))
    assert [policy.delay(0, lambda chance=chance: chance) for chance in (0.0, 0.5, 0.75)] == [1.0, 2.0, 2.5]


def test_jitter_without_randomness_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="source of randomness"):
        Backoff(first=1.0, longest=2.0, jitter=(0.5, 1.5)).delay(0)


@pytest.mark.parametrize(
    "figures",
    [
        {"first": 0.0, "longest": 1.0},
        {"first": -1.0, "longest": 1.0},
        {"first": 2.0, "longest": 1.0},
        {"first": 1.0, "longest": float("inf")},
        {"first": float("nan"), "longest": 1.0},
        {"first": 1.0, "longest": 2.0, "factor": 0.5},
        {"first": 1.0, "longest": 2.0, "factor": float("nan")},
        {"first": 1.0, "longest": 2.0, "jitter": (1.5, 0.5)},
        {"first": 1.0, "longest": 2.0, "jitter": (-0.5, 0.5)},
    ],
)
def test_figures_that_make_no_back_off_are_refused(figures: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a back-off needs"):
        Backoff(**figures)  # pyright: ignore[reportArgumentType]


_HAND_MADE = re.compile(
    r"min\([^\n]*(\* ?2\b|\b2 ?\*|2(\.0)? ?\*\*)"  # a capped doubling
    r"|\* ?2(\.0)? ?\*\* ?(min\(|\(?\w*(attempt|failure|retr|absence|restart))"  # a power of the failures
    r"|(pause|delay|retry|wait) ?\*= "
)


def test_the_search_for_hand_made_back_offs_finds_them() -> None:
    for line in (
        "pause = min(pause * 2, _LONGEST_PAUSE)",
        "retry = _FIRST if complete else min(_LONGEST, 2 * retry)",
        "await asyncio.sleep(min(_LONGEST, _FIRST * 2**failures))",
        "return _FIRST_WAIT * 2 ** min(attempt, 4)",
        "pause *= _GROWTH",
    ):
        assert _HAND_MADE.search(line)


def test_no_back_off_is_made_by_hand() -> None:
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for top in ("services", "shared", "cli", "deploy", "benchmarks")
        for path in sorted((PROJECT / top).rglob("*.py"))
        if path != PROJECT / "shared/timing/backoff.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _HAND_MADE.search(line)
    ]
    assert found == []
