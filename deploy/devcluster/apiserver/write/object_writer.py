"""Commits writes. Prepares a write again if its object has changed meanwhile (optimistic concurrency)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from deploy.devcluster.apiserver.kinds import custom, object_validation
from deploy.devcluster.apiserver.kinds.kind_registry import KindRegistry, ResourceTarget
from deploy.devcluster.apiserver.object_store import Store, StoredObject
from deploy.devcluster.apiserver.status_errors import already_exists, bad_request, conflict, not_found
from deploy.devcluster.apiserver.write.admission_webhooks import AdmissionWebhooks
from deploy.devcluster.apiserver.write.cluster_ips import ClusterIps
from deploy.devcluster.apiserver.write.deletion import ObjectDeleter
from deploy.devcluster.apiserver.write.event_expiry import EventExpiry
from deploy.devcluster.apiserver.write.prepare import PreparedWrite, WritePreparer
from deploy.devcluster.apiserver.write.write_options import WriteOptions
from deploy.devcluster.cluster_api import Obj
from shared.projected_objects import ANNOTATION_CHANGE_SET
from shared.records.change_set_annotation import stamp

_ATTEMPTS = 8


class ObjectWriter:
    """Creates, updates, patches and applies objects; `deleter` deletes them."""

    def __init__(
        self,
        store: Store,
        kinds: KindRegistry,
        admission: AdmissionWebhooks,
        *,
        clock: Callable[[], float] = time.time,
        cluster_ips: ClusterIps | None = None,
    ) -> None:
        self._store = store
        self._cluster_ips = cluster_ips or ClusterIps(store)
        self._kinds = kinds
        self._clock = clock
        self._expiry = EventExpiry(store)
        self._drafter = WritePreparer(store, kinds, admission, clock)
        self.deleter = ObjectDeleter(store, kinds, admission, clock)

    async def create(self, target: ResourceTarget, body: Any, options: WriteOptions) -> StoredObject:
        """Create an object. Raises 400, 403, 404 (namespace), 409 `AlreadyExists`, 422."""
        return self._commit([await self._drafter.create(target, body, options)], options)[0]

    async def update(self, target: ResourceTarget, body: Any, options: WriteOptions) -> StoredObject:
        """Replace an object. Raises 409 `Conflict` if the body's resource version or UID is not the current one."""
        body = object_validation.check_identity(target.kind, target.version, body)
        return await self.modify(target, lambda _old: body, options)

    async def modify(self, target: ResourceTarget, change: Callable[[Obj], Any], options: WriteOptions) -> StoredObject:
        """Write the result of `change` on the newest version; retry if it changed meanwhile. Raises 404, 409, 422."""
        for _attempt in range(_ATTEMPTS):
            base = self._store.get(target.kind.resource, *target.key)
            if base is None:
                raise not_found(target.kind.resource, target.name)
            old: Obj = {**base.obj, "apiVersion": target.api_version}
            body = object_validation.check_identity(target.kind, target.version, change(old))
            draft = await self._drafter.update(target, base, body, options)
            if self._stands(draft):
                return self._commit([draft], options)[0]
        raise conflict(target.kind.resource, target.name)

    async def apply(self, target: ResourceTarget, body: Any, options: WriteOptions) -> tuple[StoredObject, bool]:
        """Server-side apply. Returns the object, and whether it is new. Raises 409 with the conflicting fields."""
        for _attempt in range(_ATTEMPTS):
            draft = await self._drafter.apply(target, body, options)
            if self._stands(draft):
                return self._commit([draft], options)[0], draft.base is None
        raise conflict(target.kind.resource, target.name)

    async def transact(self, objects: Sequence[Obj], options: WriteOptions) -> list[StoredObject]:
        """Apply all objects in one commit with consecutive resource versions, or none. Raises the errors of `apply`.

        Each object gets the annotation `meshlog.io/change-set` (`shared.records.change_set_annotation`), so that a
        client that watches several kinds knows when it has received them all.
        """
        placed = [self._place(obj) for obj in objects]
        annotation = stamp(uuid.uuid4().hex, [target.namespace for target, _obj in placed])
        placed = [(target, _stamped(obj, annotation)) for target, obj in placed]
        keys = [(target.kind.resource, target.key) for target, _obj in placed]
        if len(set(keys)) != len(keys):
            raise bad_request("a change set names an object twice")
        promised = frozenset(target.name for target, _obj in placed if target.kind.resource == "namespaces")
        for _attempt in range(_ATTEMPTS):
            drafts = [await self._drafter.apply(target, obj, options, promised=promised) for target, obj in placed]
            if all(self._stands(draft) for draft in drafts):
                return self._commit(drafts, options)
        raise conflict(placed[0][0].kind.resource, placed[0][0].name)

    def _place(self, obj: Obj) -> tuple[ResourceTarget, Obj]:
        found = self._kinds.of(str(obj.get("apiVersion")), str(obj.get("kind")))
        if found is None:
            raise bad_request(f'no matches for kind "{obj.get("kind")}" in version "{obj.get("apiVersion")}"')
        metadata = obj.get("metadata")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
            raise bad_request(f"a {found[0].kind} of the change set has no metadata.name")
        annotations = metadata.get("annotations") or {}
        if not isinstance(annotations, dict):
            raise bad_request(f"the annotations of {found[0].kind} {metadata['name']} are no map")
        namespace = str(metadata.get("namespace") or "default") if found[0].namespaced else ""
        return ResourceTarget(*found, namespace, metadata["name"]), obj

    def _stands(self, draft: PreparedWrite) -> bool:
        return self._store.get(draft.write.resource, *draft.write.key) is draft.base

    def _commit(self, drafts: Sequence[PreparedWrite], options: WriteOptions) -> list[StoredObject]:
        for draft in drafts:
            if not self._stands(draft):
                refusal = already_exists if draft.base is None else conflict
                raise refusal(draft.kind.resource, draft.write.key[1])
        self._cluster_ips.check([draft.write for draft in drafts if not draft.unchanged])
        if options.dry_run:
            return [
                draft.base if draft.unchanged and draft.base else StoredObject(draft.write.obj, self._store.revision)
                for draft in drafts
            ]
        changing = [draft for draft in drafts if not draft.unchanged]
        stored = iter(self._store.commit([draft.write for draft in changing]))
        results = [draft.base if draft.unchanged and draft.base else next(stored) for draft in drafts]
        for draft in changing:
            if draft.kind.resource == custom.CRDS:
                self._kinds.add(custom.kind_of(draft.write.obj))
            if draft.kind.resource == "events":
                self._expiry.sweep(self._clock())
            self.deleter.settle(draft.kind, draft.write.key, draft.write.obj)
        return results


def _stamped(obj: Obj, annotation: str) -> Obj:
    metadata: Obj = obj["metadata"]
    annotations = {**(metadata.get("annotations") or {}), ANNOTATION_CHANGE_SET: annotation}
    return {**obj, "metadata": {**metadata, "annotations": annotations}}
