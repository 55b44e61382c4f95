"""The garbage collector: deletes objects whose owners are all gone, by UID.

The API server implements `kubectl delete --cascade=orphan|foreground` as a part of the deletion. Only cached resources
are collected, not custom resources.
"""

from __future__ import annotations

from collections.abc import Iterable

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Cluster, Obj
from deploy.devcluster.object_cache import ObjectCache, ObjectChange
from deploy.devcluster.object_fields import Key


class GarbageCollector:
    """Reconciles dependents; a key is (resource, `namespace/name`)."""

    def __init__(self, cluster: Cluster, cache: ObjectCache) -> None:
        self._cluster = cluster
        self._cache = cache
        self._dependents: dict[str, set[tuple[str, Key]]] = {}
        """UID of an owner → objects that refer to it."""
        self._uids: set[str] = set()

    def note(self, resource: str, change: ObjectChange) -> Iterable[Key]:
        """Record the owners of an object. Returns the keys of dependents to reconcile."""
        where = object_fields.key(change.object)
        looked_at: set[tuple[str, Key]] = set()
        if change.old is not None:
            for owner in _owners(change.old):
                self._dependents.get(owner, set()).discard((resource, where))
        if change.new is None:
            self._uids.discard(object_fields.uid(change.object))
            looked_at = self._dependents.pop(object_fields.uid(change.object), set())
        else:
            self._uids.add(object_fields.uid(change.new))
            for owner in _owners(change.new):
                self._dependents.setdefault(owner, set()).add((resource, where))
                if owner not in self._uids:
                    looked_at.add((resource, where))
        return [(each, "/".join(key)) for each, key in looked_at]

    async def reconcile(self, key: Key) -> float | None:
        """Delete the object if all its owners are gone."""
        resource = key[0]
        namespace, _, name = key[1].partition("/")
        found = await self._cluster.get(resource, namespace, name)
        if found is None or object_fields.is_terminating(found):
            return None
        owners = _owners(found)
        if owners and owners.isdisjoint(self._uids) and not await self._is_owned(found):
            await self._cluster.delete(resource, namespace, name)
        return None

    async def _is_owned(self, found: Obj) -> bool:
        """Read the owners from the store before a deletion: caches of two resources may differ in age."""
        for reference in found["metadata"]["ownerReferences"]:
            resource = self._resource_of(reference)
            if resource is None:
                return True
            namespace = "" if reference["kind"] == "Namespace" else object_fields.namespace(found)
            owner = await self._cluster.get(resource, namespace, reference["name"])
            if owner is not None and object_fields.uid(owner) == reference["uid"]:
                return True
        return False

    def _resource_of(self, reference: Obj) -> str | None:
        group = reference["apiVersion"].rpartition("/")[0]
        plural = reference["kind"].lower() + "s"
        resource = f"{plural}.{group}" if group else plural
        return resource if resource in self._cache.resources else None


def _owners(obj: Obj) -> set[str]:
    return {reference["uid"] for reference in obj["metadata"].get("ownerReferences") or []}
