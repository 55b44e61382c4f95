"""Deletes objects: at once, or marked, and removed once finalizers, grace period or namespace contents are gone.

The garbage collector (a controller) implements background propagation. Foreground and orphan propagation are
implemented here, because they affect the owner itself.
"""

from __future__ import annotations

from collections.abc import Callable

from deploy.devcluster.apiserver.kinds import custom
from deploy.devcluster.apiserver.kinds.kind_registry import KindRegistry, ResourceKind, ResourceTarget
from deploy.devcluster.apiserver.object_store import Key, ObjectWrite, Store, StoredObject
from deploy.devcluster.apiserver.selectors import Matches
from deploy.devcluster.apiserver.status_errors import conflict, forbidden, not_found, other_uid
from deploy.devcluster.apiserver.write.admission_webhooks import (
    AdmissionAttributes,
    AdmissionWebhooks,
)
from deploy.devcluster.apiserver.write.write_options import DeleteOptions, WriteOptions, timestamp
from deploy.devcluster.cluster_api import Obj

PERMANENT_NAMESPACES = frozenset({"default", "kube-system", "kube-public"})
_FOREGROUND = "foregroundDeletion"
_ATTEMPTS = 8
_BACKGROUND = DeleteOptions(propagation="Background")


class ObjectDeleter:
    """Deletes objects, collections and the contents of namespaces."""

    def __init__(
        self, store: Store, kinds: KindRegistry, admission: AdmissionWebhooks, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._admission = admission
        self._clock = clock

    async def delete(
        self, target: ResourceTarget, options: WriteOptions, deletion: DeleteOptions
    ) -> tuple[StoredObject, bool]:
        """Delete an object. Returns its last state, and whether it is removed already. Raises 403, 404, 409."""
        resource, key = target.kind.resource, target.key
        for _attempt in range(_ATTEMPTS):
            base = self._store.get(resource, *key)
            if base is None:
                raise not_found(resource, key[1])
            metadata = base.obj["metadata"]
            if deletion.uid and deletion.uid != metadata["uid"]:
                raise conflict(resource, key[1], other_uid(deletion.uid, metadata["uid"]))
            if deletion.resource_version and deletion.resource_version != metadata["resourceVersion"]:
                raise conflict(resource, key[1])
            if resource == "namespaces" and key[1] in PERMANENT_NAMESPACES:
                raise forbidden("namespaces", key[1], "this namespace may not be deleted")
            review = AdmissionAttributes(
                target=target,
                operation="DELETE",
                caller=options.caller,
                dry_run=options.dry_run,
                options={"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"},
            )
            await self._admission.mutate(review, None, base.obj, options.warnings)
            await self._admission.validate(review, None, base.obj, options.warnings)
            if self._store.get(resource, *key) is base:
                if options.dry_run:
                    return base, not self._waits(target.kind, key, base.obj, deletion)
                return self._delete(target.kind, key, base, deletion)
        raise conflict(resource, key[1])

    async def delete_collection(
        self, target: ResourceTarget, options: WriteOptions, deletion: DeleteOptions, matches: Matches | None
    ) -> list[StoredObject]:
        """Delete all matching objects. Returns their last states."""
        gone: list[StoredObject] = []
        for stored in self._store.items(target.kind.resource, target.namespace):
            if matches is None or matches(stored.obj):
                metadata = stored.obj["metadata"]
                one = ResourceTarget(target.kind, target.version, metadata.get("namespace", ""), metadata["name"])
                if self._store.get(target.kind.resource, *one.key):
                    await self.delete(one, options, deletion)
                    gone.append(stored)
        return gone

    def settle(self, kind: ResourceKind, key: Key, obj: Obj) -> None:
        """Remove a marked object if nothing holds it any more."""
        metadata = obj["metadata"]
        if "deletionTimestamp" not in metadata or metadata.get("finalizers"):
            return
        if metadata.get("deletionGracePeriodSeconds"):
            return
        if kind.resource == "namespaces" and self._has_contents(metadata["name"]):
            return
        self._remove(kind, key, {**obj, "metadata": dict(metadata)})

    # --- steps ----------------------------------------------------------------------------------------------------

    def _waits(self, kind: ResourceKind, key: Key, obj: Obj, deletion: DeleteOptions) -> bool:
        metadata = obj["metadata"]
        return bool(
            metadata.get("finalizers")
            or _grace(kind, obj, deletion.grace)
            or (deletion.propagation == "Foreground" and self._dependents(metadata["uid"]))
            or (kind.resource == "namespaces" and self._has_contents(key[1]))
        )

    def _delete(
        self, kind: ResourceKind, key: Key, base: StoredObject, deletion: DeleteOptions
    ) -> tuple[StoredObject, bool]:
        uid = base.obj["metadata"]["uid"]
        if deletion.propagation == "Orphan":
            self._orphan(uid)
        if not self._waits(kind, key, base.obj, deletion):
            return self._remove(kind, key, {**base.obj, "metadata": dict(base.obj["metadata"])}), True
        stored = self._mark(kind, key, base, deletion)
        if deletion.propagation == "Foreground":
            for resource, dependent, one in self._dependents(uid):
                found = self._kinds.get(resource)
                if found and self._store.get(resource, *dependent) is one:
                    self._delete(found, dependent, one, _BACKGROUND)
        if kind.resource == "namespaces":
            self._empty(key[1])
        return stored, self._store.get(kind.resource, *key) is None

    def _mark(self, kind: ResourceKind, key: Key, base: StoredObject, deletion: DeleteOptions) -> StoredObject:
        """Set `deletionTimestamp`; a second deletion can only move it earlier."""
        obj = dict(base.obj)
        metadata = obj["metadata"] = dict(obj["metadata"])
        seconds = _grace(kind, obj, deletion.grace)
        finalizers: list[str] = list(metadata.get("finalizers") or ())
        foreground = deletion.propagation == "Foreground" and _FOREGROUND not in finalizers
        sooner = seconds < metadata.get("deletionGracePeriodSeconds", 0)
        if "deletionTimestamp" in metadata and not sooner and not foreground:
            return base
        if foreground and self._dependents(metadata["uid"]):
            metadata["finalizers"] = [*finalizers, _FOREGROUND]
        if "deletionTimestamp" not in metadata or sooner:
            metadata["deletionTimestamp"] = timestamp(self._clock() + seconds)
            metadata["deletionGracePeriodSeconds"] = seconds
        if kind.generation:
            metadata["generation"] = metadata.get("generation", 0) + 1
        if kind.resource == "namespaces":
            obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
        return self._store.commit([ObjectWrite(kind.resource, key, obj)])[0]

    def _remove(self, kind: ResourceKind, key: Key, obj: Obj) -> StoredObject:
        removed = self._store.commit([ObjectWrite(kind.resource, key, obj, remove=True)])[0]
        if kind.resource == custom.CRDS:
            self._forget(obj)
        for owner in obj["metadata"].get("ownerReferences") or ():
            self._finish_foreground(str(owner.get("uid")))
        namespace = self._store.get("namespaces", "", key[0]) if key[0] else None
        found = self._kinds.get("namespaces")
        if namespace and found:
            self.settle(found, ("", key[0]), namespace.obj)
        return removed

    # --- namespaces -----------------------------------------------------------------------------------------------

    def _empty(self, namespace: str) -> None:
        """Delete all objects in a namespace; the namespace is removed after the last one."""
        for resource, key, stored in list(self._store.everything()):
            kind = self._kinds.get(resource)
            if kind and key[0] == namespace and self._store.get(resource, *key) is stored:
                self._delete(kind, key, stored, _BACKGROUND)

    def _has_contents(self, namespace: str) -> bool:
        return any(key[0] == namespace for _resource, key, _stored in self._store.everything())

    # --- owners and dependents ------------------------------------------------------------------------------------

    def _dependents(self, uid: str) -> list[tuple[str, Key, StoredObject]]:
        return [
            (resource, key, stored)
            for resource, key, stored in self._store.everything()
            if any(one.get("uid") == uid for one in stored.obj["metadata"].get("ownerReferences") or ())
        ]

    def _orphan(self, uid: str) -> None:
        writes: list[ObjectWrite] = []
        for resource, key, stored in self._dependents(uid):
            metadata = dict(stored.obj["metadata"])
            metadata["ownerReferences"] = [one for one in metadata["ownerReferences"] if one.get("uid") != uid]
            if not metadata["ownerReferences"]:
                del metadata["ownerReferences"]
            writes.append(ObjectWrite(resource, key, {**stored.obj, "metadata": metadata}))
        self._store.commit(writes)

    def _finish_foreground(self, uid: str) -> None:
        """Remove the foreground finalizer of an owner whose last dependent is gone."""
        for resource, key, stored in list(self._store.everything()):
            metadata = stored.obj["metadata"]
            if metadata["uid"] != uid or _FOREGROUND not in (metadata.get("finalizers") or ()):
                continue
            kind = self._kinds.get(resource)
            if kind and not self._dependents(uid):
                left = [one for one in metadata["finalizers"] if one != _FOREGROUND]
                obj = {**stored.obj, "metadata": {**metadata, "finalizers": left}}
                self._store.commit([ObjectWrite(resource, key, obj)])
                self.settle(kind, key, obj)

    # --- definitions ----------------------------------------------------------------------------------------------

    def _forget(self, crd: Obj) -> None:
        """Remove the kind of a deleted definition, with its objects."""
        kind = custom.kind_of(crd)
        writes: list[ObjectWrite] = []
        for stored in self._store.items(kind.resource):
            metadata = dict(stored.obj["metadata"])
            key = (metadata.get("namespace", ""), metadata["name"])
            writes.append(ObjectWrite(kind.resource, key, {**stored.obj, "metadata": metadata}, remove=True))
        self._store.commit(writes)
        self._kinds.remove(kind.resource)


def _grace(kind: ResourceKind, obj: Obj, asked: int | None) -> int:
    """Grace period in seconds: above 0 only for pods that are bound and not finished."""
    if kind.resource != "pods":
        return 0
    if not (obj.get("spec") or {}).get("nodeName") or (obj.get("status") or {}).get("phase") in {"Succeeded", "Failed"}:
        return 0
    return max(0, asked if asked is not None else obj["spec"].get("terminationGracePeriodSeconds", 30))
