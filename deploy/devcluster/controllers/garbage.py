"""Owner references → deletion of what nobody owns any more.

An object goes when all its owners are gone, by uid. `kubectl delete --cascade=orphan|foreground` is what the
finalizers `orphan` and `foregroundDeletion` ask for. Covered are the mirrored resources, not custom ones.
"""

from __future__ import annotations

from collections.abc import Iterable

from deploy.devcluster import objects
from deploy.devcluster.cluster import Cluster, Obj
from deploy.devcluster.mirror import Change, Mirror
from deploy.devcluster.objects import Key

_ORPHAN = "orphan"
_FOREGROUND = "foregroundDeletion"


class Garbage:
    """The controller; a key is (resource, `namespace/name`), `reconcile` is one step for one object."""

    def __init__(self, cluster: Cluster, mirror: Mirror) -> None:
        self._cluster = cluster
        self._mirror = mirror
        self._dependents: dict[str, set[tuple[str, Key]]] = {}
        """uid of an owner → the objects that name it."""
        self._uids: set[str] = set()

    def note(self, resource: str, change: Change) -> Iterable[Key]:
        """Remember who depends on whom, and name what is to be looked at."""
        where = objects.key(change.object)
        looked_at: set[tuple[str, Key]] = set()
        if change.old is not None:
            for owner in _owners(change.old):
                self._dependents.get(owner, set()).discard((resource, where))
                looked_at |= {(each, key) for each, key in self._blocked(owner)}
        if change.new is None:
            self._uids.discard(objects.uid(change.object))
            looked_at |= self._dependents.pop(objects.uid(change.object), set())
        else:
            self._uids.add(objects.uid(change.new))
            for owner in _owners(change.new):
                self._dependents.setdefault(owner, set()).add((resource, where))
            if _owners(change.new) or _finalizers(change.new) & {_ORPHAN, _FOREGROUND}:
                looked_at.add((resource, where))
        return [(each, "/".join(key)) for each, key in looked_at]

    def _blocked(self, owner: str) -> Iterable[tuple[str, Key]]:
        """The owner itself, if it waits in foreground deletion for its last dependent."""
        if self._dependents.get(owner):
            return
        for resource in self._mirror.resources:
            for obj in self._mirror.all(resource):
                if objects.uid(obj) == owner and objects.is_terminating(obj) and _FOREGROUND in _finalizers(obj):
                    yield resource, objects.key(obj)

    async def reconcile(self, key: Key) -> float | None:
        """Delete the object if its owners are gone; if it is an owner on its way out, do as its finalizers ask."""
        resource = key[0]
        namespace, _, name = key[1].partition("/")
        found = await self._cluster.get(resource, namespace, name)
        if found is None:
            return None
        if objects.is_terminating(found):
            await self._leave(resource, found)
            return None
        owners = _owners(found)
        if owners and not [owner for owner in owners if owner in self._uids] and not await self._is_owned(found):
            await self._cluster.delete(resource, namespace, name)
        return None

    async def _is_owned(self, found: Obj) -> bool:
        """Ask the store itself before anything is deleted: the mirrors of two resources are not in step."""
        for reference in found["metadata"]["ownerReferences"]:
            resource = self._resource_of(reference)
            if resource is None:
                return True
            namespace = "" if reference["kind"] == "Namespace" else objects.namespace(found)
            owner = await self._cluster.get(resource, namespace, reference["name"])
            if owner is not None and objects.uid(owner) == reference["uid"]:
                return True
        return False

    def _resource_of(self, reference: Obj) -> str | None:
        group = reference["apiVersion"].rpartition("/")[0]
        plural = reference["kind"].lower() + "s"
        resource = f"{plural}.{group}" if group else plural
        return resource if resource in self._mirror.resources else None

    async def _leave(self, resource: str, owner: Obj) -> None:
        finalizers = _finalizers(owner)
        dependents = self._dependents.get(objects.uid(owner), set())
        done: set[str] = set()
        if _ORPHAN in finalizers:
            for each, key in list(dependents):
                await self._release(each, key, objects.uid(owner))
            done.add(_ORPHAN)
        elif _FOREGROUND in finalizers:
            for each, key in list(dependents):
                await self._cluster.delete(each, *key)
            if not dependents:
                done.add(_FOREGROUND)
        if done:
            kept = [each for each in owner["metadata"]["finalizers"] if each not in done]
            await self._cluster.patch(resource, *objects.key(owner), {"metadata": {"finalizers": kept or None}})

    async def _release(self, resource: str, key: Key, owner: str) -> None:
        found = await self._cluster.get(resource, *key)
        if found is None:
            return
        kept = [each for each in found["metadata"].get("ownerReferences") or [] if each["uid"] != owner]
        await self._cluster.patch(resource, *key, {"metadata": {"ownerReferences": kept or None}})


def _owners(obj: Obj) -> set[str]:
    return {reference["uid"] for reference in obj["metadata"].get("ownerReferences") or []}


def _finalizers(obj: Obj) -> set[str]:
    return set(obj["metadata"].get("finalizers") or [])
