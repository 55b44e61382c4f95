"""The arithmetic of rolling updates keeps its bounds, whatever the pods do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.devcluster.controllers.rollout_bounds import (
    ReplicaCounts,
    RolloutBounds,
    next_sizes,
    resolve_bounds,
)


def size(name: str, wanted: int, available: int | None = None) -> ReplicaCounts:
    return ReplicaCounts(name=name, wanted=wanted, available=wanted if available is None else available, present=wanted)


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "bounds"),
    [
        (4, "25%", "25%", RolloutBounds(1, 1)),
        (3, "25%", "25%", RolloutBounds(1, 0)),
        (10, "25%", "25%", RolloutBounds(3, 2)),
        (2, 0, 0, RolloutBounds(0, 1)),
        (2, 1, 5, RolloutBounds(1, 2)),
        (2, "100%", "0%", RolloutBounds(2, 0)),
    ],
)
def test_surge_rounds_up_and_unavailable_rounds_down(
    replicas: int, surge: int | str, unavailable: int | str, bounds: RolloutBounds
) -> None:
    assert resolve_bounds(replicas, surge, unavailable) == bounds


def test_a_new_deployment_gets_all_its_pods_at_once() -> None:
    assert next_sizes(5, RolloutBounds(1, 0), size("new", 0), []) == {"new": 5}


def test_broken_pods_of_old_sets_go_before_healthy_ones() -> None:
    old = [size("a", 2, available=2), size("b", 1, available=0)]
    assert next_sizes(3, RolloutBounds(1, 0), size("new", 1, available=0), old) == {}
    assert next_sizes(2, RolloutBounds(2, 0), size("new", 1, available=0), old) == {"b": 0}


@given(
    replicas=st.integers(0, 8),
    surge=st.integers(0, 4),
    unavailable=st.integers(0, 4),
    old_counts=st.lists(st.integers(0, 8), max_size=3),
    choices=st.randoms(use_true_random=False),
)
def test_a_rollout_never_leaves_its_bounds_and_ends(
    replicas: int, surge: int, unavailable: int, old_counts: list[int], choices: object
) -> None:
    """Pods become available in any order; the total stays within the surge and enough of them serve."""
    bounds = resolve_bounds(replicas, surge, unavailable)
    wanted = {"new": 0} | {f"old{index}": count for index, count in enumerate(old_counts)}
    available = dict(wanted)
    shuffle = getattr(choices, "random")  # noqa: B009 - hypothesis' Random, untyped
    most = max(replicas + bounds.surge, sum(wanted.values()))
    least = min(replicas - bounds.unavailable, sum(wanted.values()))
    for step in range(200):
        sets = {name: ReplicaCounts(name, wanted[name], available[name], wanted[name]) for name in wanted}
        old = [sets[name] for name in wanted if name != "new" and wanted[name]]
        sizes = next_sizes(replicas, bounds, sets["new"], old)
        wanted |= sizes
        # The worst case: pods that go are available ones, as long as there are any broken ones the set keeps them.
        available = {name: min(available[name], wanted[name]) for name in wanted}
        assert sum(wanted.values()) <= most
        assert sum(available.values()) >= least
        if wanted["new"] == replicas and all(wanted[name] == 0 for name in wanted if name != "new"):
            return
        for name in wanted:
            if available[name] < wanted[name] and (shuffle() < 0.5 or step % 5 == 4):
                available[name] += 1
        least = max(least, min(replicas - bounds.unavailable, sum(available.values())))
    pytest.fail(f"the rollout did not end: {wanted}")
