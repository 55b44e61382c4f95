"""Objects that were applied together stay together: held back until the set is complete, then written as one.

The annotation stays on its objects for ever, so an object is only held if its set is new for it: not the one that
its last record in the log came with, and not one that ended a short while ago. A set that does not become
complete in time is let go as it is; nothing is ever dropped, and facts about one object never overtake each other.

Namespaces never wait: what is created in one is admitted only once the log has it, so a set that held its Namespace
back would wait for objects that wait for it. They count in their set all the same.

A set is known by its id *and* by what it says of itself: how many of its objects each namespace has. An object counts
in its own namespace only, so a namespace's user who knows the id of a set of others neither completes nor ends it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping

import msgspec

from services.ingestor.core.observations import Absent, Fact, Listed, ObjectName, Observed, Projected, Vanished

PATIENCE = 2.0
"""Seconds that an incomplete set is waited for, from its first object on."""

_REMEMBERED = 128
"""Ended sets that are remembered, of those that one namespace began."""
_AHEAD = frozenset({"Namespace"})
"""Kinds that admission reads from the log."""
_AT_ONCE = 32
"""Sets that are waited for at once, of those whose first object was of one namespace: then its oldest is let go."""


class Group(msgspec.Struct, frozen=True):
    """Facts that are written in one round; all in one atomic batch if they are a change set."""

    facts: tuple[Fact, ...]
    change_set: str = ""
    complete: bool = True


_Scope = bytes
"""One set and no other, whoever uses its id: a digest, for ended sets are remembered and may be long."""


class _Pending(msgspec.Struct):
    id: str
    home: str
    """Namespace of its first object."""
    lacking: dict[str, int]
    """Namespace → objects that have not been seen yet; those of which there are none left out."""
    deadline: float
    facts: dict[tuple[str, ObjectName], Observed]
    ahead: set[tuple[str, ObjectName]]
    """Those of its objects that did not wait."""


class ChangeSets:
    """The sets that are being waited for."""

    def __init__(self, *, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._pending: dict[_Scope, _Pending] = {}
        self._holder: dict[tuple[str, ObjectName], _Scope] = {}
        self._ended: set[_Scope] = set()
        self._ended_of: dict[str, deque[_Scope]] = {}
        """Namespace → ended sets that it began, oldest first."""

    @property
    def deadline(self) -> float | None:
        """When the first incomplete set is let go; none if nothing is held."""
        return min((pending.deadline for pending in self._pending.values()), default=None)

    def offer(self, fact: Fact, *, last: str, now: float) -> list[Group]:
        """Take a fact; what may be written now, in order. `last`: the set that the object last came with."""
        if isinstance(fact, Observed):
            wanted = _shares(fact.object)
            key = (fact.object.kind, fact.object.name)
            holder = self._holder.get(key)
            if wanted and (scope := _scope(fact.object, wanted)) not in self._ended and _id(fact.object) != last:
                groups = self._release(holder) if holder is not None and holder != scope else []
                return groups + self._hold(scope, wanted, fact, now)
            return [*(self._release(holder) if holder is not None else []), Group((fact,))]
        if isinstance(fact, Vanished):
            holder = self._holder.get((fact.kind, fact.name))
            return [*(self._release(holder) if holder is not None else []), Group((fact,))]
        return [*self._release_kind(fact), Group((fact,))]

    def due(self, now: float) -> list[Group]:
        """Sets whose time is up."""
        late = [scope for scope, pending in self._pending.items() if pending.deadline <= now]
        return [group for scope in late for group in self._release(scope)]

    def _hold(self, scope: _Scope, shares: Mapping[str, int], fact: Observed, now: float) -> list[Group]:
        key, namespace = (fact.object.kind, fact.object.name), fact.object.name.namespace
        groups: list[Group] = []
        pending = self._pending.get(scope)
        if pending is None:
            groups = self._make_room(namespace)
            pending = _Pending(_id(fact.object), namespace, dict(shares), now + self._patience, {}, set())
            self._pending[scope] = pending
        if key not in pending.facts and key not in pending.ahead:
            _count(pending.lacking, namespace)
        if fact.object.kind in _AHEAD:
            pending.ahead.add(key)
            groups.append(Group((fact,)))
        else:
            pending.facts[key] = fact
            self._holder[key] = scope
        return groups if pending.lacking else groups + self._release(scope)

    def _make_room(self, home: str) -> list[Group]:
        """What a namespace may make us hold is bounded, and is at its own cost."""
        waiting = [scope for scope, pending in self._pending.items() if pending.home == home]
        oldest = waiting[: max(0, len(waiting) - _AT_ONCE + 1)]
        return [group for scope in oldest for group in self._release(scope)]

    def _release(self, scope: _Scope) -> list[Group]:
        pending = self._pending.pop(scope)
        for key in pending.facts:
            del self._holder[key]
        ended = self._ended_of.setdefault(pending.home, deque())
        if scope not in self._ended:
            self._ended.add(scope)
            ended.append(scope)
        if len(ended) > _REMEMBERED:
            self._ended.discard(ended.popleft())
        if not pending.facts:
            return []
        return [Group(tuple(pending.facts.values()), pending.id, not pending.lacking)]

    def _release_kind(self, fact: Listed | Absent) -> list[Group]:
        holders = sorted({holder for (kind, _), holder in self._holder.items() if kind == fact.kind})
        return [group for holder in holders for group in self._release(holder)]


def _id(item: Projected) -> str:
    return "" if item.change_set is None else item.change_set.id


def _shares(item: Projected) -> dict[str, int]:
    """How many objects of its set each namespace has; none if it has no set, or one without its own namespace."""
    wanted, own = item.change_set, item.name.namespace
    if wanted is None:
        return {}
    shares = dict(wanted.shares) or {own: wanted.size}
    return shares if own in shares else {}


def _scope(item: Projected, shares: Mapping[str, int]) -> _Scope:
    return hashlib.sha256(repr((_id(item), sorted(shares.items()))).encode("utf-8", "surrogatepass")).digest()


def _count(lacking: dict[str, int], namespace: str) -> None:
    """One more object of a namespace was seen."""
    left = lacking.get(namespace, 0) - 1
    if left > 0:
        lacking[namespace] = left
    else:
        lacking.pop(namespace, None)
