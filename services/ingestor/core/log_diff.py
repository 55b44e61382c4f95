"""The difference between the cluster and the log, as changes to append. Pure.

The rules that keep a slow, stale or second ingestor harmless:

- an observation older than the log's state of the same object (same uid, smaller resource version) changes nothing;
- a deleted uid does not return, unless by an observation newer than the deletion; an object with another uid is a
  deletion and a creation;
- a list deletes only objects older than the list. An object in the log that is newer than the list is spared, and the
  list is *suspect*: it must be confirmed by a list that was requested afterwards. Only if that one is also older than
  the log was at the first suspicion, the cluster has really gone back (a restored backup). Then the list wins, and
  later observations count as new although the log contains higher versions;
- a list that would delete most of a kind at once (`panic`) deletes nothing until a second list confirms it, and a list
  that removes the last ready endpoint of an EndpointSlice leaves that slice unchanged, so that a faulty server does not
  take a service away. Watch events need no confirmation;
- a partial list deletes nothing, and an unreadable object keeps its last good form.

Resource versions are compared as numbers only here, and only to detect that one went backwards; versions that are not
numbers are never "older".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from services.ingestor.core.endpoint_readiness import serves
from services.ingestor.core.observations import KindListed, NamespacedName, ObjectDeleted, Projected
from services.ingestor.settings import PANIC
from shared.records.events import EventOrigin


class KnownObject(msgspec.Struct, frozen=True):
    """The log's newest record of one object."""

    uid: str
    resource_version: str
    """Newest that was seen, including changes that did not matter and were not appended."""
    digest: str
    """Empty: the object is deleted."""
    sequence: int
    """Of its newest record; 0: not in the log yet."""
    change_set: str = ""
    serving: bool = False
    """Whether it is an EndpointSlice with a ready endpoint."""
    withheld: int = 0
    """Bytes of the object, if the log has its closed form instead of it."""

    @property
    def lives(self) -> bool:
        """Whether the object exists according to the log."""
        return bool(self.digest)


class AppliedChange(msgspec.Struct, frozen=True):
    """Append the object's current form."""

    object: Projected
    basis: int
    """Sequence of the object's record that this replaces: part of the message id."""

    @property
    def kind(self) -> str:
        """Kind of the object."""
        return self.object.kind

    @property
    def name(self) -> NamespacedName:
        """Name of the object."""
        return self.object.name


class DeletedChange(msgspec.Struct, frozen=True):
    """Append that the object is deleted."""

    kind: str
    name: NamespacedName
    uid: str
    resource_version: str
    origin: EventOrigin
    basis: int


Change = AppliedChange | DeletedChange


class Decision(StrEnum):
    """The result of comparing one observation with the log."""

    WRITTEN = "written"
    """It changes the log."""
    UNCHANGED = "unchanged"
    """The log already contains it, or the difference does not matter."""
    OLDER = "older"
    """The log is newer."""
    GUARDED = "guarded"
    """It would empty a service or a kind, and one list is not enough for that."""


_WRITTEN, _UNCHANGED, _OLDER, _GUARDED = Decision
"""Bound once: in Python 3.11 each access through the class takes 0.2 µs."""


class ListDifference(msgspec.Struct, frozen=True):
    """The changes of a list."""

    changes: tuple[Change, ...]
    unchanged: int
    spared: int
    """Objects of the log that are newer than the list, or guarded, and were left unchanged."""
    suspect: int = 0
    """If not 0: the list is older than this version in the log and must be confirmed."""
    panic: bool = False
    """The list would delete most of the kind, or empty a service. That was not done; it must be confirmed."""
    back_to: str = ""
    """If not empty: the cluster has gone back to this version; later versions in the log are void."""


KnownObjects = dict[NamespacedName, KnownObject]
"""The log's objects of one kind; deleted objects stay as tombstones."""


def number(resource_version: str) -> int | None:
    """Returns a resource version as a number, or None if it is not one."""
    return int(resource_version) if resource_version.isascii() and resource_version.isdigit() else None


def is_older(candidate: str, than: str) -> bool:
    """Whether a resource version went backwards; False if that cannot be known."""
    left, right = number(candidate), number(than)
    return left is not None and right is not None and left < right


def observe(
    known: KnownObject | None, item: Projected, *, wins: bool = False, listed_at: str = ""
) -> tuple[Decision, tuple[Change, ...]]:
    """Compare a form of an object with the log.

    `wins`: the source is right although its version is lower. `listed_at`: version of the list that contains the
    object; the object lived at that version, whatever an earlier deletion recorded.
    """
    if known is None:
        return _WRITTEN, (AppliedChange(item, 0),)
    applied = AppliedChange(item, known.sequence)
    older = is_older(item.resource_version, known.resource_version)
    if known.uid != item.uid:
        if older and not wins:
            return _OLDER, ()
        if not known.lives:
            return _WRITTEN, (applied,)
        deleted = _deletion(item.kind, item.name, known, item.resource_version, EventOrigin(source=item.origin.source))
        return _WRITTEN, (deleted, applied)
    # Kubernetes does not reuse uids (a TokenIssuer has none, and does return). A newer form of a deleted uid therefore
    # means that the deletion was based on a stale list.
    returned = bool(known.uid) and not known.lives and not is_older(known.resource_version, item.resource_version)
    if (older or returned) and not wins and (known.lives or not is_older(known.resource_version, listed_at)):
        return _OLDER, ()
    if known.digest == item.digest:
        return _UNCHANGED, ()
    return _WRITTEN, (applied,)


def delete(known: KnownObject | None, observed: ObjectDeleted) -> tuple[Decision, tuple[Change, ...]]:
    """Compare a deletion from a watch with the log: no change if the log has no such object, or its successor.

    A predecessor in the log is deleted too: a disconnected watch may have missed its deletion and the new creation.
    """
    if known is None or not known.lives:
        return _UNCHANGED, ()
    if known.uid != observed.uid and not is_older(known.resource_version, observed.resource_version):
        return _OLDER, ()
    deleted = _deletion(observed.kind, observed.name, known, observed.resource_version, observed.origin)
    return _WRITTEN, (deleted,)


_PANIC_FROM = 10
"""Living objects of a kind below which any share of deletions is ordinary."""


class ListTrust(msgspec.Struct, frozen=True):
    """How far one list is believed against the log. Derived once, before any of its objects is compared."""

    wins: bool
    """The list confirms that the cluster has gone back: it wins over higher versions in the log."""
    suspect: int
    """The newest version in the log, if the list is older and does not win; else 0."""
    guarded: bool
    """It may not empty a service: it is not the confirmation of an earlier list."""
    mass_deletion: bool
    """It is guarded and lacks most of the kind: it may delete nothing."""

    @classmethod
    def of(cls, objects: KnownObjects, listed: KindListed, *, missing: int, suspected: int, panic: float) -> ListTrust:
        """`missing`: number of living objects that the list lacks. `suspected`, `panic`: see `compare`."""
        at = number(listed.resource_version)
        newest = max((n for known in objects.values() if (n := number(known.resource_version)) is not None), default=0)
        behind = at is not None and at < newest
        wins = at is not None and behind and listed.confirming and at < suspected
        guarded = panic < 1 and not listed.confirming
        living = sum(known.lives for known in objects.values()) if missing else 0
        return cls(
            wins=wins,
            suspect=newest if behind and not wins else 0,
            guarded=guarded,
            mass_deletion=guarded and living >= _PANIC_FROM and missing > panic * living,
        )


def compare(objects: KnownObjects, listed: KindListed, *, suspected: int = 0, panic: float = PANIC) -> ListDifference:
    """Compare a list with the log.

    `suspected`: the version in the log that an earlier list of this kind was older than; 0: none. `panic`: share of a
    kind's objects above which deletions must be confirmed; 1: no confirmation is needed.
    """
    missing = _missing(objects, listed)
    trust = ListTrust.of(objects, listed, missing=len(missing), suspected=suspected, panic=panic)
    rows = [
        _decide_present(objects.get(item.name), item, listed, trust) for item in sorted(listed.objects, key=_by_name)
    ]
    decisions = Counter(decision for decision, _ in rows)
    deletions = [_decide_missing(name, objects[name], listed, trust) for name in missing]
    decisions.update(decision for decision, _ in deletions)
    return ListDifference(
        changes=tuple(change for _, changes in (*rows, *deletions) for change in changes),
        unchanged=decisions[_UNCHANGED],
        spared=decisions[_OLDER] + decisions[_GUARDED],
        suspect=trust.suspect,
        panic=decisions[_GUARDED] > 0,
        back_to=listed.resource_version if trust.wins else "",
    )


def _missing(objects: KnownObjects, listed: KindListed) -> Sequence[NamespacedName]:
    """Returns the living objects that a complete list lacks, sorted; a partial list lacks none."""
    if not listed.complete:
        return ()
    present = {item.name for item in listed.objects} | listed.unreadable
    return sorted(name for name, known in objects.items() if known.lives and name not in present)


def _decide_present(
    known: KnownObject | None, item: Projected, listed: KindListed, trust: ListTrust
) -> tuple[Decision, tuple[Change, ...]]:
    decision, changes = observe(known, item, wins=trust.wins, listed_at=listed.resource_version)
    if trust.guarded and changes and known is not None and known.serving and not serves(item.kind, item.body):
        return _GUARDED, ()
    return decision, changes


def _decide_missing(
    name: NamespacedName, known: KnownObject, listed: KindListed, trust: ListTrust
) -> tuple[Decision, tuple[Change, ...]]:
    if trust.mass_deletion or (trust.guarded and known.serving):
        return _GUARDED, ()
    if not trust.wins and is_older(listed.resource_version, known.resource_version):
        return _OLDER, ()
    return _WRITTEN, (_deletion(listed.kind, name, known, listed.resource_version, EventOrigin(source="list")),)


def _deletion(
    kind: str, name: NamespacedName, known: KnownObject, resource_version: str, origin: EventOrigin
) -> DeletedChange:
    return DeletedChange(
        kind=kind,
        name=name,
        uid=known.uid,
        resource_version=resource_version,
        origin=origin,
        basis=known.sequence,
    )


def _by_name(item: Projected) -> NamespacedName:
    return item.name
