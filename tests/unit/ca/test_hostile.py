"""Whatever arrives where the CA and its requesters read is judged: it is refused in words, or it keeps its promise."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.ca.hostile import READERS, judge, seeds

SEEDS = list(seeds())
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
"""The library reads a serial that is not positive, and announces that it will stop doing so."""


@pytest.mark.parametrize("seed", SEEDS, ids=[READERS[seed[0]].__name__ for seed in SEEDS])
@settings(max_examples=60, deadline=None)
@given(places=st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), min_size=1, max_size=3))
def test_what_is_well_formed_but_for_a_few_bytes_is_judged(seed: bytes, places: list[tuple[int, bytes]]) -> None:
    changed = bytearray(seed)
    for place, put in places:
        at = 1 + place % (len(changed) - 1)
        # As many bytes as are put are replaced; where none is, one is taken out.
        changed[at : at + max(1, len(put))] = put
    judge(bytes(changed))


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=300))
def test_noise_is_judged(content: bytes) -> None:
    judge(content)


def test_every_reader_is_given_something_well_formed() -> None:
    for seed in SEEDS:
        judge(seed)
    assert {seed[0] for seed in SEEDS} == set(range(len(READERS)))
