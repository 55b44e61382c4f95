"""Observations of a standby that the log may lack: kept until the leader has appended them, and handed over if not.

A standby's watches run like the leader's. This buffer keeps the newest observation of each object, and drops it once
the log contains the same; so when the leader stops, it holds exactly what the leader had not appended.
"""

from __future__ import annotations

import msgspec

from services.ingestor.core.log_diff import Decision, ListDifference, compare, delete, number, observe
from services.ingestor.core.object_index import ObjectIndex
from services.ingestor.core.observations import (
    KindAbsent,
    KindListed,
    NamespacedName,
    ObjectDeleted,
    ObjectUpdated,
    Observation,
)

_MAX_VERSION = 1 << 64
"""Beyond every resource version: any list is older."""


class StandbyBuffer:
    """Observations by kind and object, mutable; owned by the writer."""

    def __init__(self) -> None:
        self._lists: dict[str, KindListed] = {}
        self._newest: dict[tuple[str, NamespacedName], ObjectUpdated | ObjectDeleted] = {}
        self._reached: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._lists) + len(self._newest)

    def keep(self, observation: Observation) -> None:
        """Keep an observation. A list replaces everything of its kind; later watch events are kept beside it."""
        match observation:
            case ObjectUpdated(item):
                self._newest.pop((item.kind, item.name), None)
                self._newest[item.kind, item.name] = observation
                self._reach(item.kind, item.resource_version)
            case ObjectDeleted(kind, name, resource_version=version):
                self._newest.pop((kind, name), None)
                self._newest[kind, name] = observation
                self._reach(kind, version)
            case KindListed(kind, version):
                self._newest = {key: held for key, held in self._newest.items() if key[0] != kind}
                self._lists[kind] = observation
                self._reached.pop(kind, None)
                self._reach(kind, version)
            case KindAbsent():
                return

    def forget_written(self, index: ObjectIndex) -> set[str]:
        """Drop what the log contains; returns the kinds whose whole list the log contains.

        Watch events received after a list are kept as long as the list: the list alone would revert them. A list older
        than the log is kept too, even if their contents are equal: the cluster may have gone back, which the log does
        not show, and the next leader must detect it.
        """
        written = {kind for kind, listed in self._lists.items() if self._is_written(index, listed)}
        settled = written | {kind for kind, listed in self._lists.items() if self._is_contained(index, listed)}
        for kind in written:
            listed = self._lists.pop(kind)
            index.advance(kind, listed.resource_version, in_round=False)
            for item in listed.objects:
                index.refresh_unchanged(item)
        for key, observation in list(self._newest.items()):
            if key[0] in self._lists:
                continue
            known = index.get(*key)
            if isinstance(observation, ObjectUpdated):
                decision, _ = observe(known, observation.object)
            else:
                decision, _ = delete(known, observation)
            if decision is Decision.WRITTEN:
                continue
            if isinstance(observation, ObjectUpdated):
                index.refresh_unchanged(observation.object)
            else:
                index.advance(observation.kind, observation.resource_version, in_round=False)
            del self._newest[key]
        return settled

    def take(self) -> list[Observation]:
        """Hand everything over, lists first."""
        observations: list[Observation] = [*self._lists.values(), *self._newest.values()]
        self._lists.clear()
        self._newest.clear()
        self._reached.clear()
        return observations

    def _reach(self, kind: str, version: str) -> None:
        self._reached[kind] = max(self._reached.get(kind, 0), number(version) or 0)

    def _is_written(self, index: ObjectIndex, listed: KindListed) -> bool:
        """Whether the log contains a whole list, apart from objects with a later watch event.

        A log ahead of the list makes the list suspect, unless the watch after the list has come as far as the log.
        """
        difference = compare(index.objects(listed.kind), listed)
        if difference.panic or difference.suspect > self._reached.get(listed.kind, 0):
            return False
        return self._is_superseded(difference, listed.kind)

    def _is_contained(self, index: ObjectIndex, listed: KindListed) -> bool:
        """Whether the log contains a whole list and nothing else, whichever of them is older."""
        believed = msgspec.structs.replace(listed, confirming=True)
        return self._is_superseded(compare(index.objects(listed.kind), believed, suspected=_MAX_VERSION), listed.kind)

    def _is_superseded(self, difference: ListDifference, kind: str) -> bool:
        """Whether each different object has a later watch event."""
        return all((kind, change.name) in self._newest for change in difference.changes)
