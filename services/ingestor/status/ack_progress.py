"""Tracks acknowledgements: which proxies an object concerns, and which of them have acknowledged it. Pure.

Folded from the compiler's commits and the proxies' statuses. Only names are kept of a commit, no bytes: a resource
names the objects that its bytes depend on, a view names the resources of a workload class, and a class its proxies. A
proxy holds an object unless it lacks a commit that contains the object's event *and* changes its class: a proxy never
acknowledges a commit that changes nothing for it, and need not.

Objects whose state may have changed are collected (`take_changed`), so that the reporter evaluates only these.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from shared.records.events import ObjectKey
from shared.records.proxy_status import ProxyStatus, state_of
from shared.records.snapshot import Commit, Proxy, Quarantined, Resource, ResourceId, SnapshotError, ViewChange

_MOST_CHANGES = 64
"""Changes of a class that are remembered; a proxy that lacks an older one lacks all since."""


class ProxyLag(msgspec.Struct, frozen=True):
    """A connected proxy that has not acknowledged all changes of its class."""

    proxy: str
    holds: int
    """Version up to which it holds every event; it lacks later ones."""


class ConcernedProxies(msgspec.Struct, frozen=True):
    """Connected proxies whose configuration depends on an object."""

    count: int
    waiting: tuple[str, ...] = ()
    """Those that lack it, sorted."""


class _ClassProgress:
    """A workload class."""

    def __init__(self) -> None:
        self.members: set[str] = set()
        self.changes: list[tuple[int, int]] = []
        """Parent and version of each commit that changed its view, oldest first."""
        self.dropped = 0
        """Version of the newest change that was dropped from `changes`; 0: none was."""
        self.connected = 0
        self.lags: tuple[ProxyLag, ...] = ()

    def change(self, parent: int, version: int) -> None:
        """Record a commit that changed its view."""
        self.changes.append((parent, version))
        if len(self.changes) > _MOST_CHANGES:
            self.dropped = self.changes.pop(0)[1]


class AckProgress:
    """The fold, mutable; one owner."""

    def __init__(self, *, cluster: str, kinds: Collection[str]) -> None:
        """Tracks objects of these kinds in this cluster; proxies of every cluster count."""
        self.version = 0
        self.namespaces: frozenset[str] = frozenset()
        """Namespaces that are members of the mesh."""
        self.left_out_others: dict[ObjectKey, list[Quarantined]] = {}
        """Left-out objects of other kinds in this cluster."""
        self._cluster = cluster
        self._kinds = frozenset(kinds)
        self._statuses: dict[str, ProxyStatus] = {}
        self._announced = 0
        """Up to which event the compiler has announced that all is published."""
        self._epoch = ""
        self._clear()

    def _clear(self) -> None:
        self._causes: dict[ResourceId, tuple[ObjectKey, ...]] = {}
        self._resources: dict[ObjectKey, set[ResourceId]] = {}
        self._classes_of: dict[ResourceId, set[str]] = {}
        self._views: dict[str, dict[tuple[str, str], str]] = {}
        self._proxies: dict[str, tuple[str, str]] = {}
        self._moved: dict[str, int] = {}
        self._classes: dict[str, _ClassProgress] = {}
        self._quarantine: dict[ObjectKey, list[Quarantined]] = {}
        self.left_out_others = {}
        self._known_from = 0
        self._changed: set[ObjectKey] = set()
        self._changed_classes: set[str] = set()
        self._all_changed = True

    # Inputs

    def take_commit(self, commit: Commit) -> None:
        """Fold a commit. Raises `SnapshotError` if it does not follow the newest folded one."""
        whole = commit.parent == 0
        if whole:
            self._clear()
            self._known_from = commit.version
        elif commit.parent != self.version:
            raise SnapshotError("snapshot/gap", f"version {commit.version} follows {commit.parent}, not {self.version}")
        for resource in commit.resources:
            self._put_resource(resource)
        self._take_views(commit)
        for identity in commit.retired:
            self._drop_resource(identity)
        if commit.quarantine is not None:
            self._put_quarantine(commit.quarantine)
        if commit.mesh_namespaces is not None:
            self.namespaces = frozenset(commit.mesh_namespaces)
            self._all_changed = True
        self.version, self._epoch = commit.version, commit.epoch
        for name in list(self._changed_classes):
            self._count(name)

    def _take_views(self, commit: Commit) -> None:
        for workload_class, change in commit.views.items():
            self._put_view(workload_class, change)
            if commit.parent and change is not None:
                self._classes[workload_class].change(commit.parent, commit.version)
        for key, proxy in commit.proxies.items():
            self._put_proxy(key, proxy, commit)

    def recall(self, commits: Sequence[Commit]) -> None:
        """Take the commits before the keyframe that was just folded, oldest first: only the versions of changes."""
        for commit in commits:
            for workload_class, change in commit.views.items():
                if workload_class in self._classes and change is not None:
                    self._classes[workload_class].change(commit.parent, commit.version)
            for key, proxy in commit.proxies.items():
                if proxy is not None and self._proxies.get(key) == (proxy.uid, proxy.workload_class):
                    self._moved[key] = commit.version
            self._known_from = min(self._known_from, commit.version)
        for name in self._classes:
            self._count(name)

    def take_status(self, status: ProxyStatus) -> None:
        """Fold the newest status of a proxy."""
        key = f"{status.cluster}/{status.namespace}/{status.pod}"
        self._statuses[key] = status
        if key in self._proxies:
            self._count(self._proxies[key][1])

    def take_progress(self, reached: int) -> bool:
        """Record that the compiler has published all up to an event; returns whether `compiled` has grown."""
        before, self._announced = self.compiled, reached
        return self.compiled > before

    # Queries

    @property
    def compiled(self) -> int:
        """Sequence up to which every event is in force, is left out, or changes nothing."""
        return max(self.version, self._announced)

    def states(self) -> dict[str, list[str]]:
        """Returns the proxies of the newest version by state (see `shared.records.proxy_status.state_of`)."""
        found: dict[str, list[str]] = {}
        for key, (_, workload_class) in sorted(self._proxies.items()):
            status = self._statuses.get(key)
            behind = status is not None and self._holds(key, self._classes[workload_class], status) is not None
            found.setdefault(state_of(status, behind=behind), []).append(key.partition("/")[2])
        return found

    def ended(self, now: float) -> list[str]:
        """Returns the connected proxies whose certificate has expired, sorted. `now`: seconds since 1970."""
        return [
            key.partition("/")[2]
            for key in sorted(self._proxies)
            if (status := self._statuses.get(key)) is not None
            and status.connected
            and 0 < status.certificate_until <= now
        ]

    def left_out(self, key: ObjectKey) -> list[Quarantined]:
        """Returns why the object, or a part of it, is left out; empty if it is not."""
        return self._quarantine.get(key, [])

    def concerned(self, key: ObjectKey, sequence: int) -> ConcernedProxies:
        """Returns the proxies that an object concerns, and those that lack its event at `sequence`."""
        names = {name for identity in self._resources.get(key, ()) for name in self._classes_of.get(identity, ())}
        found = [self._classes[name] for name in names if name in self._classes]
        # A proxy is in one class only.
        waiting = sorted(lag.proxy for held in found for lag in held.lags if lag.holds < sequence)
        return ConcernedProxies(sum(held.connected for held in found), tuple(waiting))

    def refusal(self, proxy: str) -> str:
        """Returns the proxy's message about the resources that it still refuses; empty if it refuses none."""
        status = self._statuses.get(proxy)
        for one in status.types.values() if status is not None else ():
            if one.refusal is not None:
                return one.refusal.message
        return ""

    def take_changed(self) -> tuple[set[ObjectKey], bool]:
        """Returns the objects whose state may have changed since the last call, and whether all may have."""
        found, everything = self._changed, self._all_changed
        for name in self._changed_classes:
            for (type_url, resource), digest in self._views.get(name, {}).items():
                found.update(self._causes.get((type_url, resource, digest), ()))
        self._changed, self._changed_classes, self._all_changed = set(), set(), False
        return found, everything

    # Lagging proxies

    def _count(self, name: str) -> None:
        """Count the connected and the lagging proxies of a class; its objects have changed if the counts have."""
        held = self._classes.get(name)
        if held is None:
            return
        connected, lags = 0, list[ProxyLag]()
        for proxy in sorted(held.members):
            status = self._statuses.get(proxy)
            if status is None or not status.connected:
                continue
            connected += 1
            holds = self._holds(proxy, held, status)
            if holds is not None:
                lags.append(ProxyLag(proxy, holds))
        found = connected, tuple(lags)
        if found != (held.connected, held.lags):
            held.connected, held.lags = found
            self._changed_classes.add(name)
        elif any(self.refusal(lag.proxy) for lag in lags):
            self._changed_classes.add(name)

    def _holds(self, proxy: str, held: _ClassProgress, status: ProxyStatus) -> int | None:
        """Returns the version up to which a lagging proxy holds all events, or None if it does not lag."""
        acked = status.acked_in(self._epoch)
        lacks = [parent for parent, version in held.changes if version > acked]
        # Changes before the oldest read commit are unknown; the status shows whether the proxy owes acknowledgements.
        unknown = acked < self._known_from and _owes(status)
        if not acked or unknown or acked < max(held.dropped, self._moved.get(proxy, 0)):
            lacks.append(acked)
        return min(lacks, default=None)

    # The fold

    def _is_ours(self, key: ObjectKey) -> bool:
        return key.cluster == self._cluster and key.kind in self._kinds

    def _put_resource(self, resource: Resource) -> None:
        keys = tuple({cause.key for cause in resource.causes if self._is_ours(cause.key)})
        if not keys:
            return
        identity = (resource.type_url, resource.name, resource.hash)
        self._causes[identity] = keys
        for key in keys:
            self._resources.setdefault(key, set()).add(identity)
        self._changed.update(keys)

    def _drop_resource(self, identity: ResourceId) -> None:
        keys = self._causes.pop(identity, ())
        self._changed.update(keys)
        for key in keys:
            held = self._resources[key]
            held.discard(identity)
            if not held:
                del self._resources[key]
        self._classes_of.pop(identity, None)

    def _put_quarantine(self, quarantine: list[Quarantined]) -> None:
        before, self._quarantine, self.left_out_others = self._quarantine, {}, {}
        for one in quarantine:
            if self._is_ours(one.key):
                self._quarantine.setdefault(one.key, []).append(one)
            elif one.key.cluster == self._cluster:
                self.left_out_others.setdefault(one.key, []).append(one)
        after = self._quarantine
        self._changed.update(key for key in {*before, *after} if before.get(key) != after.get(key))

    def _put_view(self, workload_class: str, change: ViewChange | None) -> None:
        view = self._views.setdefault(workload_class, {})
        if change is None:
            for (type_url, name), digest in self._views.pop(workload_class).items():
                self._unlink_class(type_url, name, digest, workload_class)
            if workload_class in self._classes and not self._classes[workload_class].members:
                del self._classes[workload_class]
            return
        self._classes.setdefault(workload_class, _ClassProgress())
        self._changed_classes.add(workload_class)
        for type_url, names in change.dropped.items():
            for name in names:
                self._unlink(view, type_url, name, workload_class)
        for type_url, named in change.put.items():
            for name, digest in named.items():
                self._unlink(view, type_url, name, workload_class)
                if (type_url, name, digest) in self._causes:
                    view[type_url, name] = digest
                    self._classes_of.setdefault((type_url, name, digest), set()).add(workload_class)

    def _unlink(self, view: dict[tuple[str, str], str], type_url: str, name: str, workload_class: str) -> None:
        digest = view.pop((type_url, name), None)
        if digest is not None:
            self._unlink_class(type_url, name, digest, workload_class)

    def _unlink_class(self, type_url: str, name: str, digest: str, workload_class: str) -> None:
        identity = (type_url, name, digest)
        self._classes_of.get(identity, set()).discard(workload_class)
        self._changed.update(self._causes.get(identity, ()))

    def _put_proxy(self, key: str, proxy: Proxy | None, commit: Commit) -> None:
        before = self._proxies.pop(key, None)
        if proxy is None:
            self._moved.pop(key, None)
            self._statuses.pop(key, None)
        else:
            self._proxies[key] = now = (proxy.uid, proxy.workload_class)
            self._classes.setdefault(proxy.workload_class, _ClassProgress()).members.add(key)
            if before != now and commit.parent:
                self._moved[key] = commit.version
            self._changed_classes.add(proxy.workload_class)
        if before is not None and (proxy is None or before[1] != proxy.workload_class):
            self._leave(key, before[1])

    def _leave(self, key: str, workload_class: str) -> None:
        held = self._classes[workload_class]
        held.members.discard(key)
        self._changed_classes.add(workload_class)
        if not held.members and workload_class not in self._views:
            del self._classes[workload_class]


def _owes(status: ProxyStatus) -> bool:
    """Whether the proxy was sent more than it has acknowledged, refuses it, or its edge cannot send it more."""
    return bool(status.stuck) or any(one.sent > one.acked or one.refusal for one in status.types.values())
