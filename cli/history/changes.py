"""Computes the differences between two versions: objects, the views of classes, proxies, quarantined objects."""

from __future__ import annotations

import msgspec

from cli.history.object_states import LostHistoryError, ObjectSelection
from cli.history.timeline import LoggedEvent, Timeline
from shared.records.events import ObjectKey
from shared.records.snapshot import Quarantined, Snapshot


class ChangedResource(msgspec.Struct, frozen=True):
    """A resource name of a class, with the hash before and after; empty if the class does not hold it."""

    type_url: str
    name: str
    before: str
    after: str

    @property
    def verb(self) -> str:
        """`added`, `removed` or `changed`."""
        return "added" if not self.before else "changed" if self.after else "removed"


class VersionDifference(msgspec.Struct, frozen=True):
    """The differences from one snapshot to another."""

    classes: dict[str, list[ChangedResource]]
    """Changed resources by class; of a class that was added or removed, all its names."""
    proxies: dict[str, tuple[str, str]]
    """Proxy → class before and after; empty if the proxy is not in that snapshot."""
    newly_left_out: list[Quarantined]
    no_longer_left_out: list[Quarantined]
    joined: list[str] = []
    """Namespaces that become members."""
    left: list[str] = []

    @property
    def nothing(self) -> bool:
        """Whether the two snapshots are equal."""
        left_out = self.newly_left_out or self.no_longer_left_out
        return not (self.classes or self.proxies or left_out or self.joined or self.left)


def between(before: Snapshot, after: Snapshot) -> VersionDifference:
    """Return the differences between two snapshots; pure."""
    classes: dict[str, list[ChangedResource]] = {}
    for name in sorted({*before.views, *after.views}):
        old, new = before.views.get(name, {}), after.views.get(name, {})
        if old != new and (found := changed_names(old, new)):
            classes[name] = found
    proxies: dict[str, tuple[str, str]] = {}
    for key in sorted({*before.proxies, *after.proxies}):
        was, now = before.proxies.get(key), after.proxies.get(key)
        if was != now:
            proxies[key] = (was.workload_class if was else "", now.workload_class if now else "")
    return VersionDifference(
        classes=classes,
        proxies=proxies,
        newly_left_out=sorted(set(after.quarantine) - set(before.quarantine)),
        no_longer_left_out=sorted(set(before.quarantine) - set(after.quarantine)),
        joined=sorted(set(after.mesh_namespaces) - set(before.mesh_namespaces)),
        left=sorted(set(before.mesh_namespaces) - set(after.mesh_namespaces)),
    )


def changed_names(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> list[ChangedResource]:
    """Return the differences between two views."""
    found: list[ChangedResource] = []
    for type_url in sorted({*before, *after}):
        old, new = before.get(type_url, {}), after.get(type_url, {})
        if old == new:
            continue
        found.extend(
            ChangedResource(type_url, name, old.get(name, ""), new.get(name, ""))
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        )
    return found


def membership(difference: VersionDifference) -> list[str]:
    """Return a sentence for each namespace that joins or leaves the mesh."""
    joined = [f"namespace {name}: becomes a member" for name in difference.joined]
    return [*joined, *(f"namespace {name}: is no member any more" for name in difference.left)]


def distinct(difference: VersionDifference) -> dict[ChangedResource, list[str]]:
    """Return each change once, with the classes that see it: most changes are shared by many."""
    found: dict[ChangedResource, list[str]] = {}
    for name, changes in difference.classes.items():
        for change in changes:
            found.setdefault(change, []).append(name)
    return found


async def objects_between(timeline: Timeline, after: int, until: int) -> dict[ObjectKey, list[LoggedEvent]]:
    """Return the events between two versions, by object, in order. Raises `LostHistoryError` if some are trimmed."""
    first, _ = await timeline.source.events.bounds()
    if first > after + 1:
        raise LostHistoryError(
            "history/forgotten",
            f"the log keeps events from {first} on only, so what happened after {after} is not all known",
        )
    found: dict[ObjectKey, list[LoggedEvent]] = {}
    async for item in timeline.history(after=after, until=until):
        found.setdefault(item.event.key, []).append(item)
    return dict(sorted(found.items()))


async def object_at(timeline: Timeline, kind: str, namespace: str, name: str, version: int) -> LoggedEvent | None:
    """Return the newest event of an object at a version, of the epoch then, or None if it had none yet.

    Raises `LostHistoryError` if the log has trimmed a part of the state.
    """
    source = timeline.source
    subject = source.streams.event_subject(source.about.cluster, kind, namespace, name)
    return next(iter(await timeline.state(version, ObjectSelection(subjects=frozenset({subject})))), None)
