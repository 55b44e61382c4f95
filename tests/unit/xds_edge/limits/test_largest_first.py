"""The largest holder is known after any changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.xds_edge.limits.largest_first import LargestFirst


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=60))
def test_the_ranking_is_that_of_counting(changes: list[tuple[int, bool]]) -> None:
    ranking: LargestFirst[int] = LargestFirst()
    held = dict.fromkeys(range(5), 0)
    for one, more in changes:
        before = held[one]
        held[one] = before + 1 if more else max(0, before - 1)
        ranking.move(one, before, held[one])
        most, who = ranking.most()
        assert most == max(held.values())
        assert ranking.total == sum(held.values())
        assert who is None if not most else held[who or 0] == most
