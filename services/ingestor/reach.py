"""How far policy has come: which proxies an object concerns, and which of them hold it. Pure.

Folded from the compiler's commits and the proxies' statuses. Of a commit only names are kept, no bytes: a resource
names the objects that its bytes depend on, a view says which workload class has it, and a class which proxies are in
it. A proxy holds an object if it acknowledged any version from the object's own event on, because a version *is* the
sequence of an event.
"""

from __future__ import annotations

from collections.abc import Collection

from shared.events import ObjectKey
from shared.snapshot import Commit, Quarantined, Resource, SnapshotError, ViewChange
from shared.status import ProxyStatus, state_of

_Identity = tuple[str, str, str]


class Reach:
    """Mutable; one owner."""

    def __init__(self, *, cluster: str, kinds: Collection[str]) -> None:
        """Objects of these kinds in this cluster are looked after; proxies of every cluster count."""
        self.version = 0
        self.namespaces: frozenset[str] = frozenset()
        """Members of the mesh."""
        self._cluster = cluster
        self._kinds = frozenset(kinds)
        self._statuses: dict[str, ProxyStatus] = {}
        self._clear()

    def _clear(self) -> None:
        self._causes: dict[_Identity, tuple[ObjectKey, ...]] = {}
        self._resources: dict[ObjectKey, set[_Identity]] = {}
        self._classes: dict[_Identity, set[str]] = {}
        self._views: dict[str, dict[tuple[str, str], str]] = {}
        self._proxies: dict[str, str] = {}
        self._members: dict[str, set[str]] = {}
        self._quarantine: dict[ObjectKey, list[Quarantined]] = {}
        self._wanted: dict[str, int] = {}
        """Class → the newest version that changed what it holds; 0 where following began with it."""
        self._joined: dict[str, int] = {}
        """Proxy → the version in which it came, or came to its class; the same."""

    def take_commit(self, commit: Commit) -> None:
        """Fold a commit in. Raises `SnapshotError` if it does not follow what was folded before."""
        if commit.parent == 0:
            self._clear()
        elif commit.parent != self.version:
            raise SnapshotError("snapshot/gap", f"version {commit.version} follows {commit.parent}, not {self.version}")
        for resource in commit.resources:
            self._put_resource(resource)
        since = commit.version if commit.parent else 0
        for workload_class, change in commit.views.items():
            self._wanted[workload_class] = since
            self._put_view(workload_class, change)
        for key, proxy in commit.proxies.items():
            self._joined[key] = since
            self._put_proxy(key, proxy.workload_class if proxy is not None else "")
        for identity in commit.retired:
            self._drop_resource(identity)
        if commit.quarantine is not None:
            self._put_quarantine(commit.quarantine)
        if commit.mesh_namespaces is not None:
            self.namespaces = frozenset(commit.mesh_namespaces)
        self.version = commit.version

    def take_status(self, status: ProxyStatus) -> None:
        """Fold the newest status of a proxy in."""
        self._statuses[f"{status.cluster}/{status.namespace}/{status.pod}"] = status

    def states(self) -> dict[str, list[str]]:
        """How every proxy of the newest version stands (see `shared.status.state_of`), by state."""
        found: dict[str, list[str]] = {}
        for key, workload_class in sorted(self._proxies.items()):
            status = self._statuses.get(key)
            wanted = max(self._wanted.get(workload_class, 0), self._joined.get(key, 0))
            behind = status is not None and status.acked < wanted
            found.setdefault(state_of(status, behind=behind), []).append(key.partition("/")[2])
        return found

    def left_out(self, key: ObjectKey) -> list[Quarantined]:
        """Why the object, or a part of it, is left out; empty: it is not."""
        return self._quarantine.get(key, [])

    def concerned(self, key: ObjectKey) -> set[str]:
        """Connected proxies whose configuration depends on the object."""
        classes = {each for identity in self._resources.get(key, ()) for each in self._classes.get(identity, ())}
        members = {proxy for each in classes for proxy in self._members.get(each, ())}
        return {proxy for proxy in members if (status := self._statuses.get(proxy)) is not None and status.connected}

    def holds(self, proxy: str, sequence: int) -> bool:
        """Whether the proxy has acknowledged everything up to the event at `sequence`."""
        status = self._statuses.get(proxy)
        return status is not None and status.acked >= sequence

    def refusal(self, proxy: str) -> str:
        """What the proxy said when it last refused something that it still refuses; empty: nothing."""
        status = self._statuses.get(proxy)
        for one in status.types.values() if status is not None else ():
            if one.refusal is not None:
                return one.refusal.message
        return ""

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

    def _drop_resource(self, identity: _Identity) -> None:
        for key in self._causes.pop(identity, ()):
            held = self._resources[key]
            held.discard(identity)
            if not held:
                del self._resources[key]
        self._classes.pop(identity, None)

    def _put_quarantine(self, quarantine: list[Quarantined]) -> None:
        self._quarantine = {}
        for one in quarantine:
            if self._is_ours(one.key):
                self._quarantine.setdefault(one.key, []).append(one)

    def _put_view(self, workload_class: str, change: ViewChange | None) -> None:
        view = self._views.setdefault(workload_class, {})
        if change is None:
            self._wanted.pop(workload_class, None)
            for (type_url, name), digest in self._views.pop(workload_class).items():
                self._classes.get((type_url, name, digest), set()).discard(workload_class)
            return
        for type_url, names in change.dropped.items():
            for name in names:
                self._unlink(view, type_url, name, workload_class)
        for type_url, named in change.put.items():
            for name, digest in named.items():
                self._unlink(view, type_url, name, workload_class)
                if (type_url, name, digest) in self._causes:
                    view[type_url, name] = digest
                    self._classes.setdefault((type_url, name, digest), set()).add(workload_class)

    def _unlink(self, view: dict[tuple[str, str], str], type_url: str, name: str, workload_class: str) -> None:
        digest = view.pop((type_url, name), None)
        if digest is not None:
            self._classes.get((type_url, name, digest), set()).discard(workload_class)

    def _put_proxy(self, key: str, workload_class: str) -> None:
        before = self._proxies.pop(key, "")
        if before:
            self._members[before].discard(key)
        if workload_class:
            self._proxies[key] = workload_class
            self._members.setdefault(workload_class, set()).add(key)
        else:
            self._statuses.pop(key, None)
            self._joined.pop(key, None)
