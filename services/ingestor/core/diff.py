"""The difference between what the cluster says and what the log holds, as changes to be written. Pure.

The rules that keep a slow, stale or second ingestor harmless:

- a fact older than what the log holds of the same object (same uid, smaller resource version) changes nothing;
- a uid that was deleted never comes back, unless by news newer than the deletion; an object with another uid is a
  deletion and a creation;
- a list deletes only what is older than the list itself. An object in the log that is newer than the list is left
  alone, and the list is *suspect*: it must be confirmed by another one that was asked for afterwards. Only if that
  is older still than what the log held at the first suspicion has the cluster really gone back (a restored
  backup), and then the list rules, and what comes after it is news, though the log knows higher versions;
- a list that would delete most of a kind at once (`panic`) deletes nothing until another one confirms it, and one that
  takes the last ready endpoint of an EndpointSlice leaves that slice as it was: no glitch of a server takes a service
  away. What a watch says needs no confirmation;
- a partial list deletes nothing, and an unreadable object keeps its last good form.

Resource versions are compared as numbers only here, and only to notice that one went backwards; versions that
are no numbers are never "older".
"""

from __future__ import annotations

from typing import Literal

import msgspec

from services.ingestor.core.endpoint_readiness import serves
from services.ingestor.core.observations import Listed, ObjectName, Projected, Vanished
from shared.records.events import Origin


class Known(msgspec.Struct, frozen=True):
    """What the log's newest record of one object says."""

    uid: str
    resource_version: str
    """Newest that was seen, also of a change that did not matter and was not written."""
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
        """Whether the object exists, as far as the log knows."""
        return bool(self.digest)


class Applied(msgspec.Struct, frozen=True):
    """Write the object as it is now."""

    object: Projected
    basis: int
    """Sequence of the object's record that this replaces: part of the message id."""


class Deleted(msgspec.Struct, frozen=True):
    """Write that the object is gone."""

    kind: str
    name: ObjectName
    uid: str
    resource_version: str
    origin: Origin
    basis: int


Change = Applied | Deleted
Verdict = Literal["written", "unchanged", "older"]


class ListDifference(msgspec.Struct, frozen=True):
    """What a list changes."""

    changes: tuple[Change, ...]
    unchanged: int
    spared: int
    """Objects of the log that are newer than the list, and were left alone."""
    suspect: int = 0
    """If not 0: the list is older than this version that the log holds; confirm it."""
    panic: bool = False
    """It would delete most of the kind, or empty a service, and that was not done; confirm it."""
    back_to: str = ""
    """If not empty: the cluster has gone back to this version; what the log has of later ones is another past."""


Objects = dict[ObjectName, Known]
"""One kind, as the log has it; deleted objects stay as tombstones."""


def number(resource_version: str) -> int | None:
    """A resource version as a number, if it is one."""
    return int(resource_version) if resource_version.isascii() and resource_version.isdigit() else None


def is_older(candidate: str, than: str) -> bool:
    """Whether a resource version went backwards; false if that cannot be known."""
    left, right = number(candidate), number(than)
    return left is not None and right is not None and left < right


def observe(
    known: Known | None, item: Projected, *, rules: bool = False, listed_at: str = ""
) -> tuple[Verdict, tuple[Change, ...]]:
    """What a new form of an object changes.

    `rules`: the source is known to be right, however old it looks. `listed_at`: it is in the list of this version, so
    it lived then, whatever was said of its death before.
    """
    if known is None:
        return "written", (Applied(item, 0),)
    applied = Applied(item, known.sequence)
    older = is_older(item.resource_version, known.resource_version)
    if known.uid != item.uid:
        if older and not rules:
            return "older", ()
        if not known.lives:
            return "written", (applied,)
        gone = Deleted(
            kind=item.kind,
            name=item.name,
            uid=known.uid,
            resource_version=item.resource_version,
            origin=Origin(source=item.origin.source),
            basis=known.sequence,
        )
        return "written", (gone, applied)
    # A deleted uid never comes back (the token issuer has none, and does), so what is newer than its deletion says
    # that it never was deleted: a list from the past did that.
    revenant = bool(known.uid) and not known.lives and not is_older(known.resource_version, item.resource_version)
    if (older or revenant) and not rules and (known.lives or not is_older(known.resource_version, listed_at)):
        return "older", ()
    if known.digest == item.digest:
        return "unchanged", ()
    return "written", (applied,)


def vanish(known: Known | None, fact: Vanished) -> tuple[Verdict, tuple[Change, ...]]:
    """What a DELETED line changes: nothing, if the log holds no such object or already its successor.

    If it holds a predecessor, that is gone too: whoever slept may have seen neither its end nor the other's birth.
    """
    if known is None or not known.lives:
        return "unchanged", ()
    if known.uid != fact.uid and not is_older(known.resource_version, fact.resource_version):
        return "older", ()
    gone = Deleted(
        kind=fact.kind,
        name=fact.name,
        uid=known.uid,
        resource_version=fact.resource_version,
        origin=fact.origin,
        basis=known.sequence,
    )
    return "written", (gone,)


PANIC = 0.5
"""Share of a kind's objects above which deletions by one list want confirmation; 1: no list does, whatever it says."""
_PANIC_FROM = 10
"""Objects of a kind below which that is ordinary."""


def compare(objects: Objects, listed: Listed, *, suspected: int = 0, panic: float = PANIC) -> ListDifference:
    """What a list changes. `suspected`: the version that an earlier list of this kind was found to be older than."""
    at = number(listed.resource_version)
    newest = max((n for known in objects.values() if (n := number(known.resource_version)) is not None), default=0)
    behind = at is not None and at < newest
    rules = behind and listed.confirming and suspected > 0 and at is not None and at < suspected
    changes: list[Change] = []
    unchanged = spared = 0
    guarded = panic < 1 and not listed.confirming
    emptied = 0
    for item in sorted(listed.objects, key=_by_name):
        known = objects.get(item.name)
        verdict, some = observe(known, item, rules=rules, listed_at=listed.resource_version)
        if guarded and some and known is not None and known.serving and not serves(item.kind, item.body):
            emptied += 1
            spared += 1
            continue
        changes += some
        unchanged += verdict == "unchanged"
        spared += verdict == "older"
    panicked = False
    if listed.complete:
        present = {item.name for item in listed.objects} | listed.unreadable
        living = sum(known.lives for known in objects.values())
        missing = sorted(name for name, known in objects.items() if known.lives and name not in present)
        panicked = guarded and living >= _PANIC_FROM and len(missing) > panic * living
        for name in missing:
            known = objects[name]
            if panicked or (guarded and known.serving):
                emptied += known.serving
                spared += 1
                continue
            if not rules and is_older(listed.resource_version, known.resource_version):
                spared += 1
                continue
            changes.append(
                Deleted(
                    kind=listed.kind,
                    name=name,
                    uid=known.uid,
                    resource_version=listed.resource_version,
                    origin=Origin(source="list"),
                    basis=known.sequence,
                )
            )
    return ListDifference(
        changes=tuple(changes),
        unchanged=unchanged,
        spared=spared,
        suspect=newest if behind and not rules else 0,
        panic=panicked or emptied > 0,
        back_to=listed.resource_version if rules else "",
    )


def _by_name(item: Projected) -> ObjectName:
    return item.name
