"""The in-process client of the API: controllers and kubelet use it instead of HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from deploy.devcluster.apiserver.kinds.kind_registry import (
    KindRegistry,
    KindVersion,
    ResourceKind,
    ResourceTarget,
)
from deploy.devcluster.apiserver.kinds.schema import clone
from deploy.devcluster.apiserver.object_store import Store, StoredObject
from deploy.devcluster.apiserver.selectors import labels_of
from deploy.devcluster.apiserver.status_errors import StatusError, expired, no_such_path
from deploy.devcluster.apiserver.write import patching
from deploy.devcluster.apiserver.write.object_writer import ObjectWriter
from deploy.devcluster.apiserver.write.write_options import DeleteOptions, WriteOptions
from deploy.devcluster.cluster_api import Obj, WatchEvent


class LocalCluster:
    """Implements `deploy.devcluster.cluster_api.Cluster` over the writer that HTTP requests use."""

    def __init__(self, store: Store, kinds: KindRegistry, writer: ObjectWriter) -> None:
        self._store = store
        self._kinds = kinds
        self._writer = writer

    def _kind(self, resource: str) -> ResourceKind:
        kind = self._kinds.get(resource)
        if kind is None:
            raise no_such_path()
        return kind

    async def get(self, resource: str, namespace: str, name: str) -> Obj | None:
        """Returns one object, or None."""
        stored = self._store.get(self._kind(resource).resource, namespace, name)
        return stored.copy() if stored else None

    async def list(
        self, resource: str, namespace: str = "", *, labels: Mapping[str, str] | None = None
    ) -> tuple[list[Obj], str]:
        """All objects (of a namespace, with these labels) and the list's resource version."""
        found = self._store.items(self._kind(resource).resource, namespace)
        if labels:
            wanted = labels.items()
            found = [one for one in found if wanted <= labels_of(one.obj).items()]
        return [one.copy() for one in found], str(self._store.revision)

    async def create(self, resource: str, obj: Obj, *, manager: str = "devcluster") -> Obj:
        """Create an object in `metadata.namespace`."""
        kind = self._kind(resource)
        namespace = str((obj.get("metadata") or {}).get("namespace") or "default") if kind.namespaced else ""
        target = ResourceTarget(kind, self._version(kind, obj), namespace)
        return (await self._writer.create(target, clone(obj), WriteOptions(manager=manager))).copy()

    async def update(self, resource: str, obj: Obj, *, subresource: str = "", manager: str = "devcluster") -> Obj:
        """Replace."""
        kind = self._kind(resource)
        metadata = obj["metadata"]
        namespace = metadata.get("namespace", "")
        target = ResourceTarget(kind, self._version(kind, obj), namespace, metadata["name"], subresource)
        return (await self._writer.update(target, clone(obj), WriteOptions(manager=manager))).copy()

    async def patch(
        self,
        resource: str,
        namespace: str,
        name: str,
        merge: Obj,
        *,
        subresource: str = "",
        manager: str = "devcluster",
    ) -> Obj:
        """JSON merge patch of the newest version."""
        kind = self._kind(resource)

        def change(old: Obj) -> Any:
            patched = patching.merge(old, merge)
            patched["metadata"] = {**patched["metadata"], "resourceVersion": old["metadata"]["resourceVersion"]}
            return patched

        target = ResourceTarget(kind, kind.preferred, namespace, name, subresource)
        return (await self._writer.modify(target, change, WriteOptions(manager=manager))).copy()

    async def delete(self, resource: str, namespace: str, name: str, *, grace_seconds: int | None = None) -> None:
        """Delete; a missing object is no error."""
        kind = self._kind(resource)
        target = ResourceTarget(kind, kind.preferred, namespace, name)
        try:
            await self._writer.deleter.delete(target, WriteOptions(), DeleteOptions(grace=grace_seconds))
        except StatusError as error:
            if error.status != 404:
                raise

    async def transact(self, objects: Sequence[Obj], *, manager: str = "devcluster") -> list[Obj]:
        """Apply all objects in one commit: consecutive resource versions, watchers see them back to back."""
        options = WriteOptions(manager=manager, force=True)
        return [one.copy() for one in await self._writer.transact([clone(obj) for obj in objects], options)]

    async def watch(self, resource: str, namespace: str = "", *, since: str = "") -> AsyncIterator[WatchEvent]:
        """Changes after `since`, for ever; if `since` is empty, all objects come first as ADDED.

        Raises 410 `Expired` if `since`, or the position of a slow reader, is no longer in the window.
        """
        journal = self._store.journal(self._kind(resource).resource)
        if since:
            position = journal.position(int(since))
            if position is None:
                raise expired(f"too old resource version: {since} ({journal.floor})")
        else:
            position = journal.end
            for stored in self._store.items(resource, namespace):
                yield _event("ADDED", stored)
        while True:
            await journal.more(position)
            changes = journal.read(position)
            if changes is None:
                raise expired(f"too old resource version ({journal.floor})")
            position += len(changes)
            for change in changes:
                if not namespace or change.key[0] == namespace:
                    yield _event(change.type, change.stored)

    def _version(self, kind: ResourceKind, obj: Obj) -> KindVersion:
        given = str(obj.get("apiVersion") or "").rpartition("/")[2]
        return kind.version(given) or kind.preferred


def _event(event_type: Any, stored: StoredObject) -> WatchEvent:
    return WatchEvent(event_type, stored.copy())
