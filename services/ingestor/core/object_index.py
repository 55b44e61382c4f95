"""Index of the log's objects by kind and name: the writer's memory, which can be rebuilt from the log at any time.

Decisions of a round are entered before they are appended, because the next observation of the round depends on them;
if the log refuses the append, they are undone (`undo_round`).
"""

from __future__ import annotations

import msgspec

from services.ingestor.core.endpoint_readiness import serves
from services.ingestor.core.log_diff import AppliedChange, Change, KnownObject, KnownObjects, is_older, number
from services.ingestor.core.observations import NamespacedName, Projected
from services.ingestor.core.projection import digest_of
from shared.eventlog.protocol import Record
from shared.records import events
from shared.records.events import ObjectKey

MAX_TOMBSTONES = 20_000
"""Deleted objects that are remembered, to recognise late observations of them."""


class ObjectIndex:
    """The newest record of each object, mutable; owned by the writer."""

    def __init__(self, *, max_tombstones: int = MAX_TOMBSTONES) -> None:
        self._kinds: dict[str, KnownObjects] = {}
        self._undo: list[tuple[str, NamespacedName, KnownObject | None]] = []
        self._processed: dict[str, int] = {}
        self._processed_in_round: dict[str, int] = {}
        self._max_tombstones = max_tombstones
        self._tombstones = 0

    def objects(self, kind: str) -> KnownObjects:
        """Returns all objects of a kind, tombstones included. The caller must not change them."""
        return self._kinds.setdefault(kind, {})

    def get(self, kind: str, name: NamespacedName) -> KnownObject | None:
        """Returns the newest record of one object, or None if there is none."""
        return self._kinds.get(kind, {}).get(name)

    def counts(self) -> dict[str, int]:
        """Returns the number of living objects by kind."""
        return {kind: sum(known.lives for known in held.values()) for kind, held in self._kinds.items()}

    def withheld(self) -> dict[str, int]:
        """Returns the number of living objects by kind of which the log has only the closed form."""
        return {
            kind: count
            for kind, held in self._kinds.items()
            if (count := sum(known.lives and known.withheld > 0 for known in held.values()))
        }

    def advance(self, kind: str, resource_version: str, *, in_round: bool = True) -> None:
        """Record the resource version up to which a kind is processed; in a round, until the round is undone."""
        processed = self._processed_in_round if in_round else self._processed
        processed[kind] = max(processed.get(kind, 0), number(resource_version) or 0)

    def fold(self, record: Record, before: dict[tuple[str, NamespacedName], KnownObject | None] | None = None) -> None:
        """Enter a record of the log; `before` receives the earlier state of each entered object.

        Raises `CorruptEventError` or `FutureEventError`.
        """
        event = events.read(record)
        name = NamespacedName(namespace=event.namespace, name=event.name)
        digest = (
            digest_of(event.api_version, bytes(event.object), event.withheld, event.why)
            if event.object is not None
            else ""
        )
        known = KnownObject(
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

    def contradicts(self, kind: str, name: NamespacedName, before: KnownObject | None) -> bool:
        """Whether the log's state of an object is older than the state `before` the log was read.

        Observations that change nothing are not appended, so the log cannot refuse a lagging writer with older state. A
        writer that knows newer state must append it again.
        """
        now = self.get(kind, name)
        if now is None:
            return False
        if before is None:
            version = number(now.resource_version)
            return now.lives and version is not None and version < self._processed.get(kind, 0)
        return not _same(before, now) and is_older(now.resource_version, before.resource_version)

    def enter(self, change: Change) -> None:
        """Enter a change that is about to be appended."""
        if isinstance(change, AppliedChange):
            self._enter(change.object, change.basis)
        else:
            known = KnownObject(
                uid=change.uid, resource_version=change.resource_version, digest="", sequence=change.basis
            )
            self._remember(change.kind, change.name, known)

    def refresh(self, item: Projected) -> None:
        """Enter a newer form of an object whose projection has not changed."""
        known = self.get(item.kind, item.name)
        if known is not None and known.lives:
            self._enter(item, known.sequence)

    def refresh_unchanged(self, item: Projected) -> None:
        """The same outside of a round, if uid and projection are equal: it cannot be undone."""
        known = self.get(item.kind, item.name)
        if known is not None and known.uid == item.uid and known.digest == item.digest:
            self.refresh(item)
            self._undo.pop()

    def go_back_to(self, kind: str, version: str) -> None:
        """Lower later versions of a kind to this one: the cluster has gone back."""
        for name, known in list(self.objects(kind).items()):
            if is_older(version, known.resource_version):
                self._remember(kind, name, msgspec.structs.replace(known, resource_version=version))
        self._processed.pop(kind, None)
        self._processed_in_round.pop(kind, None)

    def appended(self, change: Change, sequence: int) -> None:
        """Record the sequence of an entered change in the log."""
        self._move(change.kind, change.name, sequence)

    def reappended(self, key: ObjectKey, sequence: int) -> None:
        """Record the new sequence of an object whose unchanged form was appended again."""
        self._move(key.kind, NamespacedName(namespace=key.namespace, name=key.name), sequence)

    def _move(self, kind: str, name: NamespacedName, sequence: int) -> None:
        known = self.get(kind, name)
        if known is not None:
            self._kinds[kind][name] = msgspec.structs.replace(known, sequence=sequence)

    def commit_round(self) -> None:
        """Keep the decisions of the round: the log has them."""
        self._undo.clear()
        for kind, version in self._processed_in_round.items():
            self._processed[kind] = max(self._processed.get(kind, 0), version)
        self._processed_in_round.clear()
        if self._tombstones > self._max_tombstones:
            self._drop_tombstones()

    def undo_round(self) -> None:
        """Undo the decisions of the round: the log refused them."""
        for kind, name, before in reversed(self._undo):
            if before is None:
                self._kinds[kind].pop(name, None)
            else:
                self._kinds[kind][name] = before
        self._undo.clear()
        self._processed_in_round.clear()
        self._recount()

    def replace_with(self, other: ObjectIndex) -> set[str]:
        """Take over another index, read from the log meanwhile; returns the kinds of which it is older than this."""
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
        self._processed.clear()
        self._processed_in_round.clear()
        self._tombstones = 0

    def _enter(self, item: Projected, sequence: int) -> None:
        known = KnownObject(
            uid=item.uid,
            resource_version=item.resource_version,
            digest=item.digest,
            sequence=sequence,
            change_set=item.change_set.id if item.change_set else "",
            serving=serves(item.kind, item.body),
            withheld=item.withheld,
        )
        self._remember(item.kind, item.name, known)

    def _remember(self, kind: str, name: NamespacedName, known: KnownObject) -> None:
        self._undo.append((kind, name, self.get(kind, name)))
        self._set(kind, name, known)

    def _set(self, kind: str, name: NamespacedName, known: KnownObject) -> None:
        held = self._kinds.setdefault(kind, {})
        before = held.get(name)
        self._tombstones += (not known.lives) - (before is not None and not before.lives)
        held[name] = known

    def _recount(self) -> None:
        self._tombstones = sum(not known.lives for held in self._kinds.values() for known in held.values())

    def _drop_tombstones(self) -> None:
        """Forget the older half of the tombstones."""
        dead = sorted(
            (known.sequence, kind, name)
            for kind, held in self._kinds.items()
            for name, known in held.items()
            if not known.lives
        )
        for _, kind, name in dead[: len(dead) // 2]:
            del self._kinds[kind][name]
        self._recount()


def _same(one: KnownObject, other: KnownObject) -> bool:
    return one.uid == other.uid and one.digest == other.digest
