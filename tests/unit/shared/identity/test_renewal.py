from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.identity.renewal import renewal_delay, retry_delay


@given(lifetime=st.floats(10, 1e7), chance=st.floats(0, 1, exclude_max=True))
def test_renewal_falls_around_two_thirds_of_the_lifetime(lifetime: float, chance: float) -> None:
    assert 0.56 < renewal_delay(lifetime, lambda: chance) / lifetime < 0.77


def test_a_fleet_that_started_together_renews_apart() -> None:
    first, last = renewal_delay(86400, lambda: 0.0), renewal_delay(86400, lambda: 0.999)
    assert last - first > 86400 / 6


@given(lifetime=st.floats(10, 1e7), attempt=st.integers(1, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_retries_back_off_and_stay_short_enough_for_the_lifetime(lifetime: float, attempt: int, chance: float) -> None:
    delay = retry_delay(attempt, lifetime, lambda: chance)
    assert 0.5 <= delay <= max(1.0, min(60.0, lifetime / 12))


def test_the_first_retry_comes_soon() -> None:
    assert retry_delay(1, 86400, lambda: 0.5) == pytest.approx(0.75)
