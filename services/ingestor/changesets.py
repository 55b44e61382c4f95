"""Objects that were applied together stay together: held back until the set is complete, then written as one.

The annotation stays on its objects for ever, so an object is only held if its set is new for it: not the one that
its last record in the log came with, and not one that ended a short while ago. A set that does not become
complete in time is let go as it is; nothing is ever dropped, and facts about one object never overtake each other.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from services.ingestor.facts import Absent, ChangeSet, Fact, Listed, ObjectName, Observed, Vanished

PATIENCE = 2.0
"""Seconds that an incomplete set is waited for, from its first object on."""

_REMEMBERED = 1024


class Group(msgspec.Struct, frozen=True):
    """Facts that are written in one round; all in one atomic batch if they are a change set."""

    facts: tuple[Fact, ...]
    change_set: str = ""
    complete: bool = True


class _Pending(msgspec.Struct):
    size: int
    deadline: float
    facts: dict[tuple[str, ObjectName], Observed]


class ChangeSets:
    """The sets that are being waited for."""

    def __init__(self, *, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._pending: dict[str, _Pending] = {}
        self._holder: dict[tuple[str, ObjectName], str] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()

    @property
    def deadline(self) -> float | None:
        """When the first incomplete set is let go; none if nothing is held."""
        return min((pending.deadline for pending in self._pending.values()), default=None)

    def offer(self, fact: Fact, *, last: str, now: float) -> list[Group]:
        """Take a fact; what may be written now, in order. `last`: the set that the object last came with."""
        if isinstance(fact, Observed):
            wanted = fact.object.change_set
            key = (fact.object.kind, fact.object.name)
            holder = self._holder.get(key, "")
            if wanted and wanted.id != last and wanted.id not in self._ended:
                groups = self._release(holder) if holder and holder != wanted.id else []
                return groups + self._hold(wanted, key, fact, now)
            return [*(self._release(holder) if holder else []), Group((fact,))]
        if isinstance(fact, Vanished):
            holder = self._holder.get((fact.kind, fact.name), "")
            return [*(self._release(holder) if holder else []), Group((fact,))]
        return [*self._release_kind(fact), Group((fact,))]

    def due(self, now: float) -> list[Group]:
        """Sets whose time is up."""
        late = [identity for identity, pending in self._pending.items() if pending.deadline <= now]
        return [group for identity in late for group in self._release(identity)]

    def _hold(self, wanted: ChangeSet, key: tuple[str, ObjectName], fact: Observed, now: float) -> list[Group]:
        pending = self._pending.get(wanted.id)
        if pending is None:
            pending = self._pending[wanted.id] = _Pending(wanted.size, now + self._patience, {})
        pending.facts[key] = fact
        self._holder[key] = wanted.id
        return self._release(wanted.id) if len(pending.facts) >= pending.size else []

    def _release(self, identity: str) -> list[Group]:
        pending = self._pending.pop(identity)
        for key in pending.facts:
            del self._holder[key]
        self._ended[identity] = None
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        complete = len(pending.facts) >= pending.size
        return [Group(tuple(pending.facts.values()), identity, complete)]

    def _release_kind(self, fact: Listed | Absent) -> list[Group]:
        holders = sorted({holder for (kind, _), holder in self._holder.items() if kind == fact.kind})
        return [group for holder in holders for group in self._release(holder)]
