"""A token bucket fills with time, holds a burst, and may go into debt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.timing.token_bucket import TokenBucket


def test_it_fills_with_time_to_its_burst_and_goes_into_debt() -> None:
    bucket = TokenBucket(10, 5, 100.0)
    assert bucket.left(100.0) == 5
    bucket.spend(8)
    assert bucket.left(100.0) == -3
    assert not bucket.may(100.0)
    assert bucket.wait(100.0) == pytest.approx(0.4)
    assert bucket.left(100.4) == pytest.approx(1)
    assert bucket.may(100.4)
    assert not bucket.easy(100.4)
    assert bucket.left(1000.0) == 5
    assert bucket.full(1000.0)


def test_what_is_earned_never_goes_beyond_the_burst() -> None:
    bucket = TokenBucket(10, 5, 100.0)
    bucket.spend(2)
    bucket.earn(100)
    assert bucket.left(100.0) == 5


def test_one_is_taken_while_there_is_one_and_again_after_the_wait() -> None:
    bucket = TokenBucket(0.5, 2, 0.0)
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False]
    assert bucket.wait(0.0) == 2.0
    assert not bucket.take(1.9)
    assert bucket.take(2.0)


def test_an_older_reading_adds_nothing_and_takes_nothing() -> None:
    bucket = TokenBucket(1, 10, 100.0)
    bucket.spend(5)
    assert [bucket.left(now) for now in (102.0, 101.0, 102.0, 103.0)] == [7, 7, 7, 8]


def test_a_rate_that_is_changed_holds_from_the_last_reading_on() -> None:
    bucket = TokenBucket(1, 100, 0.0)
    bucket.spend(100)
    assert bucket.left(10.0) == 10
    bucket.rate = 5
    assert bucket.left(12.0) == 20


@given(
    rate=st.floats(0.1, 100),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 5), max_size=100),
)
def test_never_more_is_taken_than_burst_and_rate_allow(rate: float, burst: int, pauses: list[float]) -> None:
    bucket, now, taken = TokenBucket(rate, burst, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now)
        assert taken <= burst + rate * now + 1e-6
