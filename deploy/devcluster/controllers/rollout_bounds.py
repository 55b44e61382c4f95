"""The arithmetic of a rolling update: how many pods each ReplicaSet should have next. Pure.

The same steps as Kubernetes' deployment controller (`pkg/controller/deployment/rolling.go`), because people know
its behaviour by heart: never more than replicas + maxSurge pods, never fewer than replicas - maxUnavailable that
are available, and broken pods of old sets go first since they serve nobody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec


class ReplicaCounts(msgspec.Struct, frozen=True):
    """One ReplicaSet by its numbers."""

    name: str
    wanted: int
    """`spec.replicas`."""
    available: int
    """Pods that are ready, and have been for `minReadySeconds`."""
    present: int
    """Pods that exist, those on their way out not counted."""


class RolloutBounds(msgspec.Struct, frozen=True):
    """How far a rolling update may stray from the number of replicas."""

    surge: int
    unavailable: int


def resolve_bounds(replicas: int, surge: int | str, unavailable: int | str) -> RolloutBounds:
    """Percentages of `replicas`: surge is rounded up, unavailable down; both 0 would stand still, so then 1."""
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
    """The sizes to ask for now, for those sets whose size changes. `old` is given oldest first."""
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
