"""Assembles change sets: objects that were applied together are held back until complete, then appended as one batch.

The annotation stays on its objects for ever, so an object is held only if its set is new for it: neither the set of
its newest record in the log, nor a set that ended a short while ago. A set that does not become complete in time is
released incomplete; no observation is dropped, and observations of one object keep their order.

Namespaces are never held: objects in a namespace are admitted only once the log has it, so a set that held its
Namespace would wait for objects that wait for the Namespace. They count in their set all the same.

A set is identified by its id *and* by its declared number of objects per namespace. An object counts in its own
namespace only, so a user of one namespace can neither complete nor end a set of others, even with its id.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping

import msgspec

from services.ingestor.core.observations import (
    KindAbsent,
    KindListed,
    NamespacedName,
    ObjectDeleted,
    ObjectUpdated,
    Observation,
    Projected,
)

PATIENCE = 2.0
"""Seconds until an incomplete set is released, from its first object on."""

_REMEMBERED = 128
"""Ended sets that are remembered per namespace in which they began."""
_AHEAD = frozenset({"Namespace"})
"""Kinds that admission reads from the log: never held."""
_AT_ONCE = 32
"""Pending sets per namespace of their first object; beyond that, the oldest is released."""


class WriteGroup(msgspec.Struct, frozen=True):
    """Observations that are appended in one round; in one atomic batch if they are a change set."""

    observations: tuple[Observation, ...]
    change_set: str = ""
    complete: bool = True


_SetDigest = bytes
"""Identity of a set: id and declared shares. A digest, because ended sets are remembered and may be long."""


class _PendingSet(msgspec.Struct):
    id: str
    home: str
    """Namespace of its first object."""
    lacking: dict[str, int]
    """Namespace → objects that have not arrived; complete namespaces are omitted."""
    deadline: float
    observations: dict[tuple[str, NamespacedName], ObjectUpdated]
    ahead: set[tuple[str, NamespacedName]]
    """Its objects that were not held."""


class ChangeSetAssembler:
    """The pending sets, mutable; owned by the write queue."""

    def __init__(self, *, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._pending: dict[_SetDigest, _PendingSet] = {}
        self._holder: dict[tuple[str, NamespacedName], _SetDigest] = {}
        self._ended: set[_SetDigest] = set()
        self._ended_of: dict[str, deque[_SetDigest]] = {}
        """Namespace → ended sets that began in it, oldest first."""

    @property
    def deadline(self) -> float | None:
        """Returns the time at which the first incomplete set is released, or None if nothing is held."""
        return min((pending.deadline for pending in self._pending.values()), default=None)

    def offer(self, observation: Observation, *, last: str, now: float) -> list[WriteGroup]:
        """Take an observation; returns what may be appended now, in order.

        `last`: id of the change set of the object's newest record in the log; `now`: seconds.
        """
        if isinstance(observation, ObjectUpdated):
            wanted = _shares(observation.object)
            key = (observation.object.kind, observation.object.name)
            holder = self._holder.get(key)
            if (
                wanted
                and (scope := _scope(observation.object, wanted)) not in self._ended
                and _id(observation.object) != last
            ):
                groups = self._release(holder) if holder is not None and holder != scope else []
                return groups + self._hold(scope, wanted, observation, now)
            return [*(self._release(holder) if holder is not None else []), WriteGroup((observation,))]
        if isinstance(observation, ObjectDeleted):
            holder = self._holder.get((observation.kind, observation.name))
            return [*(self._release(holder) if holder is not None else []), WriteGroup((observation,))]
        return [*self._release_kind(observation), WriteGroup((observation,))]

    def due(self, now: float) -> list[WriteGroup]:
        """Release the sets whose time is over."""
        late = [scope for scope, pending in self._pending.items() if pending.deadline <= now]
        return [group for scope in late for group in self._release(scope)]

    def _hold(
        self, scope: _SetDigest, shares: Mapping[str, int], observation: ObjectUpdated, now: float
    ) -> list[WriteGroup]:
        key, namespace = (observation.object.kind, observation.object.name), observation.object.name.namespace
        groups: list[WriteGroup] = []
        pending = self._pending.get(scope)
        if pending is None:
            groups = self._make_room(namespace)
            pending = _PendingSet(_id(observation.object), namespace, dict(shares), now + self._patience, {}, set())
            self._pending[scope] = pending
        if key not in pending.observations and key not in pending.ahead:
            _count(pending.lacking, namespace)
        if observation.object.kind in _AHEAD:
            pending.ahead.add(key)
            groups.append(WriteGroup((observation,)))
        else:
            pending.observations[key] = observation
            self._holder[key] = scope
        return groups if pending.lacking else groups + self._release(scope)

    def _make_room(self, home: str) -> list[WriteGroup]:
        """Release the oldest sets of a namespace that holds too many; other namespaces are not affected."""
        waiting = [scope for scope, pending in self._pending.items() if pending.home == home]
        oldest = waiting[: max(0, len(waiting) - _AT_ONCE + 1)]
        return [group for scope in oldest for group in self._release(scope)]

    def _release(self, scope: _SetDigest) -> list[WriteGroup]:
        pending = self._pending.pop(scope)
        for key in pending.observations:
            del self._holder[key]
        ended = self._ended_of.setdefault(pending.home, deque())
        if scope not in self._ended:
            self._ended.add(scope)
            ended.append(scope)
        if len(ended) > _REMEMBERED:
            self._ended.discard(ended.popleft())
        if not pending.observations:
            return []
        return [WriteGroup(tuple(pending.observations.values()), pending.id, not pending.lacking)]

    def _release_kind(self, observation: KindListed | KindAbsent) -> list[WriteGroup]:
        holders = sorted({holder for (kind, _), holder in self._holder.items() if kind == observation.kind})
        return [group for holder in holders for group in self._release(holder)]


def _id(item: Projected) -> str:
    return "" if item.change_set is None else item.change_set.id


def _shares(item: Projected) -> dict[str, int]:
    """Returns the objects per namespace of an object's set; empty if it has no set, or one without its namespace."""
    wanted, own = item.change_set, item.name.namespace
    if wanted is None:
        return {}
    shares = dict(wanted.shares) or {own: wanted.size}
    return shares if own in shares else {}


def _scope(item: Projected, shares: Mapping[str, int]) -> _SetDigest:
    return hashlib.sha256(repr((_id(item), sorted(shares.items()))).encode("utf-8", "surrogatepass")).digest()


def _count(lacking: dict[str, int], namespace: str) -> None:
    """Count one more object of a namespace as arrived."""
    left = lacking.get(namespace, 0) - 1
    if left > 0:
        lacking[namespace] = left
    else:
        lacking.pop(namespace, None)
