"""Computes the next sizes of ReplicaSets in a rolling update. Pure.

The same steps as the deployment controller of Kubernetes (`pkg/controller/deployment/rolling.go`), whose behaviour
users know: at most replicas + maxSurge pods, at least replicas - maxUnavailable available pods, and unhealthy pods of
old sets are removed first, since they serve no requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec


class ReplicaCounts(msgspec.Struct, frozen=True):
    """The pod counts of one ReplicaSet."""

    name: str
    wanted: int
    """`spec.replicas`."""
    available: int
    """Pods that have been ready for `minReadySeconds`."""
    present: int
    """Pods that exist, without terminating ones."""


class RolloutBounds(msgspec.Struct, frozen=True):
    """Surge and unavailability that a rolling update may cause, in pods."""

    surge: int
    unavailable: int


def resolve_bounds(replicas: int, surge: int | str, unavailable: int | str) -> RolloutBounds:
    """Resolve percentages of `replicas`: surge rounded up, unavailable down. If both are 0, unavailable is 1."""
    most = _part(surge, replicas, math.ceil)
    fewest = _part(unavailable, replicas, math.floor)
    return RolloutBounds(most, 1 if most == 0 and fewest == 0 else min(fewest, replicas))


def _part(value: int | str, whole: int, rounding: Callable[[float], int]) -> int:
    if isinstance(value, int):
        return value
    if not value.endswith("%"):
        return int(value)
    return rounding(whole * int(value[:-1]) / 100)


def next_sizes(
    replicas: int, bounds: RolloutBounds, new: ReplicaCounts, old: Sequence[ReplicaCounts]
) -> dict[str, int]:
    """The next sizes of the sets whose size changes. `old` is sorted oldest first."""
    total = new.wanted + sum(each.wanted for each in old)
    if new.wanted > replicas:
        return {new.name: replicas}
    if new.wanted < replicas:
        room = replicas + bounds.surge - total
        if room > 0:
            return {new.name: min(replicas, new.wanted + room)} | _shrink(replicas, bounds, new, old)
    return _shrink(replicas, bounds, new, old)


def _shrink(replicas: int, bounds: RolloutBounds, new: ReplicaCounts, old: Sequence[ReplicaCounts]) -> dict[str, int]:
    total = new.wanted + sum(each.wanted for each in old)
    least = replicas - bounds.unavailable
    budget = total - least - max(0, new.wanted - new.available)
    sizes = {each.name: each.wanted for each in old}
    for each in old:
        if budget <= 0:
            break
        broken = min(budget, max(0, sizes[each.name] - each.available))
        sizes[each.name] -= broken
        budget -= broken
    spare = new.available + sum(min(each.available, sizes[each.name]) for each in old) - least
    for each in old:
        if spare <= 0:
            break
        healthy = min(spare, sizes[each.name])
        sizes[each.name] -= healthy
        spare -= healthy
    return {each.name: sizes[each.name] for each in old if sizes[each.name] != each.wanted}
