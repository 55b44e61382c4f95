"""What the log holds of one cluster, by kind and object: the writer's memory, rebuilt from the log at any time.

Decisions of one round are entered before they are written, because the next fact of the round builds on them; if
the append is refused they are taken back (`undo`).
"""

from __future__ import annotations

import msgspec

from services.ingestor.core.diff import Applied, Change, Known, Objects, is_older, number
from services.ingestor.core.endpoint_readiness import serves
from services.ingestor.core.observations import ObjectName, Projected
from services.ingestor.core.projection import digest_of
from shared.eventlog.protocol import Record
from shared.records import events
from shared.records.events import ObjectKey

MAX_TOMBSTONES = 20_000
"""Deleted objects that are remembered, to recognise late news of them."""


class Book:
    """State of the log, mutable; owned by the writer."""

    def __init__(self, *, max_tombstones: int = MAX_TOMBSTONES) -> None:
        self._kinds: dict[str, Objects] = {}
        self._undo: list[tuple[str, ObjectName, Known | None]] = []
        self._heard: dict[str, int] = {}
        self._hearing: dict[str, int] = {}
        self._max_tombstones = max_tombstones
        self._tombstones = 0

    def objects(self, kind: str) -> Objects:
        """All objects of a kind, tombstones included. Not to be changed by the caller."""
        return self._kinds.setdefault(kind, {})

    def get(self, kind: str, name: ObjectName) -> Known | None:
        """What is known of one object."""
        return self._kinds.get(kind, {}).get(name)

    def counts(self) -> dict[str, int]:
        """Living objects by kind."""
        return {kind: sum(known.lives for known in held.values()) for kind, held in self._kinds.items()}

    def withheld(self) -> dict[str, int]:
        """Living objects of which the log has only the closed form, by kind."""
        return {
            kind: count
            for kind, held in self._kinds.items()
            if (count := sum(known.lives and known.withheld > 0 for known in held.values()))
        }

    def hear(self, kind: str, resource_version: str, *, in_round: bool = True) -> None:
        """The source of a kind has spoken up to this version, and what it said was decided (in a round: for now)."""
        heard = self._hearing if in_round else self._heard
        heard[kind] = max(heard.get(kind, 0), number(resource_version) or 0)

    def fold(self, record: Record, before: dict[tuple[str, ObjectName], Known | None] | None = None) -> None:
        """Enter a record of the log; `before` keeps what was known of each object until then.

        Raises `CorruptEventError` or `FutureEventError`.
        """
        event = events.read(record)
        name = ObjectName(namespace=event.namespace, name=event.name)
        digest = (
            digest_of(event.api_version, bytes(event.object), event.withheld, event.why)
            if event.object is not None
            else ""
        )
        known = Known(
            uid=event.uid,
            resource_version=event.resource_version,
            digest=digest,
            sequence=record.sequence,
            change_set=event.origin.change_set,
            serving=event.object is not None and serves(event.kind, bytes(event.object)),
            withheld=event.withheld,
        )
        held = self.get(event.kind, name)
        if before is not None:
            before.setdefault((event.kind, name), held)
        if held is not None and _same(held, known) and is_older(known.resource_version, held.resource_version):
            known = msgspec.structs.replace(known, resource_version=held.resource_version)
        self._set(event.kind, name, known)

    def contradicts(self, kind: str, name: ObjectName, before: Known | None) -> bool:
        """Whether the log now says something older of an object than what was known `before` it was read.

        What changes nothing is not written. So another writer, late with older news, is not refused, and whoever
        knew better and was silent has to speak up.
        """
        now = self.get(kind, name)
        if now is None:
            return False
        if before is None:
            said = number(now.resource_version)
            return now.lives and said is not None and said < self._heard.get(kind, 0)
        return not _same(before, now) and is_older(now.resource_version, before.resource_version)

    def decide(self, change: Change) -> None:
        """Enter a change that is about to be written."""
        if isinstance(change, Applied):
            self._enter(change.object, change.basis)
        else:
            known = Known(uid=change.uid, resource_version=change.resource_version, digest="", sequence=change.basis)
            self._remember(change.kind, change.name, known)

    def see(self, item: Projected) -> None:
        """Enter a newer form of an object that changes nothing which matters."""
        known = self.get(item.kind, item.name)
        if known is not None and known.lives:
            self._enter(item, known.sequence)

    def see_unchanged(self, item: Projected) -> None:
        """The same outside of a round: there is nothing to take back."""
        known = self.get(item.kind, item.name)
        if known is not None and known.uid == item.uid and known.digest == item.digest:
            self.see(item)
            self._undo.pop()

    def go_back(self, kind: str, version: str) -> None:
        """The cluster has gone back to a version: no object of the kind is known of a later one."""
        for name, known in list(self.objects(kind).items()):
            if is_older(version, known.resource_version):
                self._remember(kind, name, msgspec.structs.replace(known, resource_version=version))
        self._heard.pop(kind, None)
        self._hearing.pop(kind, None)

    def written(self, change: Change, sequence: int) -> None:
        """A change that was decided stands in the log at `sequence`."""
        kind, name = (
            (change.object.kind, change.object.name) if isinstance(change, Applied) else (change.kind, change.name)
        )
        known = self.get(kind, name)
        if known is not None:
            self._kinds[kind][name] = msgspec.structs.replace(known, sequence=sequence)

    def said_again(self, key: ObjectKey, sequence: int) -> None:
        """The same form of an object stands in the log again, at `sequence`."""
        name = ObjectName(namespace=key.namespace, name=key.name)
        known = self.get(key.kind, name)
        if known is not None:
            self._kinds[key.kind][name] = msgspec.structs.replace(known, sequence=sequence)

    def keep(self) -> None:
        """The round was written: there is nothing to take back any more."""
        self._undo.clear()
        for kind, version in self._hearing.items():
            self._heard[kind] = max(self._heard.get(kind, 0), version)
        self._hearing.clear()
        if self._tombstones > self._max_tombstones:
            self._bury()

    def undo(self) -> None:
        """The round was refused: forget what was decided in it."""
        for kind, name, before in reversed(self._undo):
            if before is None:
                self._kinds[kind].pop(name, None)
            else:
                self._kinds[kind][name] = before
        self._undo.clear()
        self._hearing.clear()
        self._recount()

    def become(self, other: Book) -> set[str]:
        """Hold what the other holds, all at once: it was read while this one was in use. The kinds it contradicts."""
        before = self._kinds
        self._kinds, self._tombstones = other._kinds, other._tombstones
        self._undo.clear()
        return {
            kind
            for kind, held in self._kinds.items()
            if any(self.contradicts(kind, name, before.get(kind, {}).get(name)) for name in held)
        }

    def clear(self) -> None:
        """Forget everything: a new epoch begins."""
        self._kinds.clear()
        self._undo.clear()
        self._heard.clear()
        self._hearing.clear()
        self._tombstones = 0

    def _enter(self, item: Projected, sequence: int) -> None:
        known = Known(
            uid=item.uid,
            resource_version=item.resource_version,
            digest=item.digest,
            sequence=sequence,
            change_set=item.change_set.id if item.change_set else "",
            serving=serves(item.kind, item.body),
            withheld=item.withheld,
        )
        self._remember(item.kind, item.name, known)

    def _remember(self, kind: str, name: ObjectName, known: Known) -> None:
        self._undo.append((kind, name, self.get(kind, name)))
        self._set(kind, name, known)

    def _set(self, kind: str, name: ObjectName, known: Known) -> None:
        held = self._kinds.setdefault(kind, {})
        before = held.get(name)
        self._tombstones += (not known.lives) - (before is not None and not before.lives)
        held[name] = known

    def _recount(self) -> None:
        self._tombstones = sum(not known.lives for held in self._kinds.values() for known in held.values())

    def _bury(self) -> None:
        dead = sorted(
            (known.sequence, kind, name)
            for kind, held in self._kinds.items()
            for name, known in held.items()
            if not known.lives
        )
        for _, kind, name in dead[: len(dead) // 2]:
            del self._kinds[kind][name]
        self._recount()


def _same(one: Known, other: Known) -> bool:
    return one.uid == other.uid and one.digest == other.digest
