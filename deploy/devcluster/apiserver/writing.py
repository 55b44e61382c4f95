"""Writes: from a request to a commit in the store.

Each write is drafted (identity, types, defaults, admission, rules, managed fields) against the object as it is, and
committed only if that object is still the same: drafting may wait for webhooks, and the store moves on meanwhile.
`transact` drafts many and commits them together.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from deploy.devcluster.apiserver import conforming, custom, ownership
from deploy.devcluster.apiserver.admission import Admission, Caller, Review
from deploy.devcluster.apiserver.conforming import Validation
from deploy.devcluster.apiserver.kinds import Kind, Kinds, Version, metadata_schema
from deploy.devcluster.apiserver.refusals import (
    Cause,
    RefusedError,
    already_exists,
    apply_conflict,
    bad_request,
    conflict,
    forbidden,
    invalid,
    not_found,
)
from deploy.devcluster.apiserver.rules import check_name
from deploy.devcluster.apiserver.selecting import Matches
from deploy.devcluster.apiserver.shapes import Schema
from deploy.devcluster.apiserver.store import Store, Stored, Write
from deploy.devcluster.cluster import Obj
from shared.model import ANNOTATION_CHANGE_SET

SYSTEM = Caller("system:devcluster", groups=("system:masters", "system:authenticated"))
"""The devcluster's own parts, which call in-process."""

_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
_ATTEMPTS = 8
PERMANENT_NAMESPACES = frozenset({"default", "kube-system", "kube-public"})


class Options(msgspec.Struct, frozen=True):
    """How a write is to be made."""

    manager: str = "devcluster"
    caller: Caller = SYSTEM
    dry_run: bool = False
    validation: Validation = "Ignore"
    force: bool = False
    """A server-side apply takes fields over that others own."""
    warnings: list[str] = msgspec.field(default_factory=list)
    """Warnings for the caller are added here."""


class Precondition(msgspec.Struct, frozen=True):
    """What a deletion insists on; empty: anything."""

    uid: str = ""
    resource_version: str = ""


class _Draft(msgspec.Struct, frozen=True):
    write: Write
    base: Stored | None
    """The object that it was drafted against: still to be there, unchanged, when it is committed."""
    kind: Kind
    unchanged: bool = False


def timestamp(seconds: float) -> str:
    """RFC 3339, whole seconds, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class Writer:
    """Every way to change an object."""

    def __init__(
        self, store: Store, kinds: Kinds, admission: Admission, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._admission = admission
        self._clock = clock
        self._random = random.SystemRandom()

    # --- create, update, patch ------------------------------------------------------------------------------------

    async def create(self, kind: Kind, version: Version, namespace: str, body: Any, options: Options) -> Stored:
        """Raises 409 `AlreadyExists`, 400, 403, 404 (namespace), 422."""
        draft = await self._draft_create(kind, version, namespace, body, options)
        return self._commit([draft], options)[0]

    async def update(
        self,
        kind: Kind,
        version: Version,
        key: tuple[str, str],
        body: Any,
        options: Options,
        *,
        subresource: str = "",
    ) -> Stored:
        """Replace. Raises 409 `Conflict` if the body's resource version or uid is not the current one."""
        body = conforming.check_identity(kind, version, body)
        wanted = body["metadata"].get("resourceVersion")
        return await self.modify(
            kind, version, key, lambda _old: body, options, subresource=subresource, once=bool(wanted)
        )

    async def modify(
        self,
        kind: Kind,
        version: Version,
        key: tuple[str, str],
        change: Callable[[Obj], Any],
        options: Options,
        *,
        subresource: str = "",
        once: bool = False,
    ) -> Stored:
        """Write what `change` makes of the newest version; again if that moved on meanwhile, unless `once`."""
        for _attempt in range(1 if once else _ATTEMPTS):
            base = self._require(kind, key)
            old: Obj = {**base.obj, "apiVersion": kind.api_version(version.name)}
            body = conforming.check_identity(kind, version, change(old))
            draft = await self._draft_update(kind, version, base, body, options, subresource)
            if draft.base is self._store.get(kind.resource, *key):
                return self._commit([draft], options)[0]
        raise conflict(kind.resource, key[1])

    async def apply(
        self,
        kind: Kind,
        version: Version,
        key: tuple[str, str],
        body: Any,
        options: Options,
        *,
        subresource: str = "",
    ) -> tuple[Stored, bool]:
        """Server-side apply: the object, and whether it is new. Raises 409 with the conflicting fields."""
        for _attempt in range(_ATTEMPTS):
            draft = await self._draft_apply(kind, version, key, body, options, subresource)
            if draft.base is self._store.get(kind.resource, *key):
                return self._commit([draft], options)[0], draft.base is None
        raise conflict(kind.resource, key[1])

    async def transact(self, objects: Sequence[Obj], options: Options) -> list[Stored]:
        """Apply all objects in one commit: consecutive resource versions, or nothing. Raises what one raises.

        Each gets the annotation `meshlog.io/change-set: <id>/<size>`, so that who watches several kinds can tell
        when it has seen them all.
        """
        identity = uuid.uuid4().hex
        placed: list[tuple[Kind, Version, tuple[str, str], Obj]] = []
        for obj in objects:
            found = self._kinds.of(str(obj.get("apiVersion")), str(obj.get("kind")))
            if found is None:
                raise bad_request(f'no matches for kind "{obj.get("kind")}" in version "{obj.get("apiVersion")}"')
            metadata = obj.get("metadata")
            if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
                raise bad_request(f"a {found[0].kind} of the change set has no metadata.name")
            namespace = str(metadata.get("namespace") or "default") if found[0].namespaced else ""
            stamp = f"{identity}/{len(objects)}"
            annotations = {**(metadata.get("annotations") or {}), ANNOTATION_CHANGE_SET: stamp}
            stamped = {**obj, "metadata": {**metadata, "annotations": annotations}}
            placed.append((*found, (namespace, metadata["name"]), stamped))
        keys = [(kind.resource, key) for kind, _version, key, _obj in placed]
        if len(set(keys)) != len(keys):
            raise bad_request("a change set names an object twice")
        promised = frozenset(key[1] for kind, _version, key, _obj in placed if kind.resource == "namespaces")
        for _attempt in range(_ATTEMPTS):
            drafts = [
                await self._draft_apply(kind, version, key, obj, options, "", promised)
                for kind, version, key, obj in placed
            ]
            if all(self._store.get(d.write.resource, *d.write.key) is d.base for d in drafts):
                return self._commit(drafts, options)
        raise conflict(*placed[0][2])

    # --- delete ---------------------------------------------------------------------------------------------------

    async def delete(
        self,
        kind: Kind,
        key: tuple[str, str],
        options: Options,
        *,
        grace: int | None = None,
        propagation: str = "",
        precondition: Precondition = Precondition(),  # noqa: B008 (frozen)
    ) -> tuple[Stored, bool]:
        """Delete: the object as it last was, and whether it is gone already. Raises 404, 409, 403."""
        for _attempt in range(_ATTEMPTS):
            base = self._require(kind, key)
            metadata = base.obj["metadata"]
            if precondition.uid and precondition.uid != metadata["uid"]:
                raise conflict(kind.resource, key[1], _other_uid(precondition.uid, metadata["uid"]))
            if precondition.resource_version and precondition.resource_version != metadata["resourceVersion"]:
                raise conflict(kind.resource, key[1])
            if kind.resource == "namespaces" and key[1] in PERMANENT_NAMESPACES:
                raise forbidden("namespaces", key[1], "this namespace may not be deleted")
            review = Review(
                kind, kind.preferred, "DELETE", key[0], key[1], options.caller, dry_run=options.dry_run,
                options={"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"},
            )  # fmt: skip
            await self._admission.mutate(review, None, base.obj, options.warnings)
            await self._admission.validate(review, None, base.obj, options.warnings)
            if self._store.get(kind.resource, *key) is base:
                return self._delete_now(kind, key, base, options, grace, propagation)
        raise conflict(kind.resource, key[1])

    async def delete_collection(
        self,
        kind: Kind,
        namespace: str,
        options: Options,
        *,
        matches: Matches | None,
        grace: int | None,
        propagation: str,
    ) -> list[Stored]:
        """Delete all that match; the objects as they last were."""
        gone: list[Stored] = []
        for stored in self._store.items(kind.resource, namespace):
            if matches is None or matches(stored.obj):
                metadata = stored.obj["metadata"]
                key = (metadata.get("namespace", ""), metadata["name"])
                if self._store.get(kind.resource, *key):
                    await self.delete(kind, key, options, grace=grace, propagation=propagation)
                    gone.append(stored)
        return gone

    def _delete_now(
        self, kind: Kind, key: tuple[str, str], base: Stored, options: Options, grace: int | None, propagation: str
    ) -> tuple[Stored, bool]:
        obj = dict(base.obj)
        metadata = obj["metadata"] = dict(obj["metadata"])
        seconds = _grace(kind, obj, grace)
        finalizers: list[str] = list(metadata.get("finalizers") or ())
        if propagation == "Foreground" and self._dependents(metadata["uid"]) and "foregroundDeletion" not in finalizers:
            finalizers.append("foregroundDeletion")
            metadata["finalizers"] = finalizers
        waits = bool(finalizers) or seconds > 0 or (kind.resource == "namespaces" and self._contents(key[1]))
        if options.dry_run:
            return base, not waits
        if propagation == "Orphan":
            self._orphan(metadata["uid"])
        if not waits:
            return self._remove(kind, key, obj), True
        marked = "deletionTimestamp" in metadata
        if marked and not (seconds < metadata.get("deletionGracePeriodSeconds", 0)) and kind.resource != "namespaces":
            return base, False
        if not marked or seconds < metadata.get("deletionGracePeriodSeconds", 0):
            metadata["deletionTimestamp"] = timestamp(self._clock() + seconds)
            metadata["deletionGracePeriodSeconds"] = seconds
            if kind.generation:
                metadata["generation"] = metadata.get("generation", 0) + 1
            if kind.resource == "namespaces":
                obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
            stored = self._store.commit([Write(kind.resource, key, obj)])[0]
        else:
            stored = base
        if propagation == "Foreground":
            for resource, dependent, one in self._dependents(metadata["uid"]):
                if found := self._kinds.get(resource):
                    self._delete_now(found, dependent, one, options, None, "Background")
        if kind.resource == "namespaces":
            self._empty(key[1], options)
        return stored, self._store.get(kind.resource, *key) is None

    def _empty(self, namespace: str, options: Options) -> None:
        """Delete everything in a namespace; the namespace follows when the last object is gone."""
        for resource, key, stored in list(self._store.everything()):
            kind = self._kinds.get(resource)
            if kind and key[0] == namespace and self._store.get(resource, *key) is stored:
                self._delete_now(kind, key, stored, options, None, "Background")

    def _contents(self, namespace: str) -> bool:
        return any(key[0] == namespace for _resource, key, _stored in self._store.everything())

    def _dependents(self, uid: str) -> list[tuple[str, tuple[str, str], Stored]]:
        return [
            (resource, key, stored)
            for resource, key, stored in self._store.everything()
            if any(one.get("uid") == uid for one in stored.obj["metadata"].get("ownerReferences") or ())
        ]

    def _orphan(self, uid: str) -> None:
        writes: list[Write] = []
        for resource, key, stored in self._dependents(uid):
            metadata = dict(stored.obj["metadata"])
            metadata["ownerReferences"] = [one for one in metadata["ownerReferences"] if one.get("uid") != uid]
            if not metadata["ownerReferences"]:
                del metadata["ownerReferences"]
            writes.append(Write(resource, key, {**stored.obj, "metadata": metadata}))
        self._store.commit(writes)

    def _remove(self, kind: Kind, key: tuple[str, str], obj: Obj) -> Stored:
        removed = self._store.commit([Write(kind.resource, key, obj, remove=True)])[0]
        if kind.resource == custom.CRDS:
            self._forget(obj)
        for owner in obj["metadata"].get("ownerReferences") or ():
            self._finish_foreground(str(owner.get("uid")))
        namespace = self._store.get("namespaces", "", key[0]) if key[0] else None
        if namespace and "deletionTimestamp" in namespace.obj["metadata"] and not self._contents(key[0]):
            found = self._kinds.get("namespaces")
            if found and not namespace.obj["metadata"].get("finalizers"):
                last = {**namespace.obj, "metadata": dict(namespace.obj["metadata"])}
                self._remove(found, ("", key[0]), last)
        return removed

    def _finish_foreground(self, uid: str) -> None:
        for resource, key, stored in list(self._store.everything()):
            metadata = stored.obj["metadata"]
            if metadata["uid"] != uid or "foregroundDeletion" not in (metadata.get("finalizers") or ()):
                continue
            kind = self._kinds.get(resource)
            if kind and not self._dependents(uid):
                metadata = dict(metadata)
                metadata["finalizers"] = [one for one in metadata["finalizers"] if one != "foregroundDeletion"]
                obj = {**stored.obj, "metadata": metadata}
                if metadata["finalizers"]:
                    self._store.commit([Write(resource, key, obj)])
                else:
                    self._remove(kind, key, obj)

    def _forget(self, crd: Obj) -> None:
        """The kind of a deleted definition goes, and its objects with it."""
        kind = custom.kind_of(crd)
        writes = [
            Write(
                kind.resource, _key(stored.obj), {**stored.obj, "metadata": dict(stored.obj["metadata"])}, remove=True
            )
            for stored in self._store.items(kind.resource)
        ]
        self._store.commit(writes)
        self._kinds.remove(kind.resource)

    # --- drafts ---------------------------------------------------------------------------------------------------

    def _require(self, kind: Kind, key: tuple[str, str]) -> Stored:
        stored = self._store.get(kind.resource, *key)
        if stored is None:
            raise not_found(kind.resource, key[1])
        return stored

    async def _draft_create(
        self,
        kind: Kind,
        version: Version,
        namespace: str,
        body: Any,
        options: Options,
        promised: frozenset[str] = frozenset(),
        entries: Callable[[Obj], list[dict[str, Any]]] | None = None,
    ) -> _Draft:
        obj = conforming.check_identity(kind, version, body)
        metadata = obj["metadata"] = dict(obj["metadata"])
        if metadata.get("resourceVersion"):
            raise conforming.refuse_resource_version()
        self._place(kind, metadata, namespace)
        metadata = self._born(kind, metadata)
        obj["metadata"] = metadata
        self._check_namespace(kind, metadata, promised)
        if kind.status:
            obj.pop("status", None)
        obj = conforming.conform(kind, version, obj, validation=options.validation, warnings=options.warnings)
        name = str(obj["metadata"].get("name", ""))
        if not name:
            causes = check_name(kind.resource, "")
            raise invalid(kind.kind, kind.group, "", causes)
        if self._store.get(kind.resource, metadata.get("namespace", ""), name):
            raise already_exists(kind.resource, name)
        review = self._review(kind, version, "CREATE", obj, options)
        admitted = await self._admission.mutate(review, obj, None, options.warnings)
        if admitted is not obj:
            obj = conforming.conform(kind, version, self._keep_identity(admitted or obj, metadata))
        conforming.check_rules(kind, obj, None)
        await self._admission.validate(review, obj, None, options.warnings)
        self._finish(kind, obj)
        now = timestamp(self._clock())
        if entries is None:
            fields = ownership.Fields(None, _fields_schema(kind, version))
            fields.update(None, obj, manager=options.manager, subresource="", version=obj["apiVersion"], now=now)
            obj["metadata"]["managedFields"] = fields.entries
        else:
            obj["metadata"]["managedFields"] = entries(obj)
        return _Draft(Write(kind.resource, _key(obj), obj), None, kind)

    def _place(self, kind: Kind, metadata: dict[str, Any], namespace: str) -> None:
        said = metadata.get("namespace")
        if kind.namespaced:
            if said and said != namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request "
                    f"({namespace})"
                )
            metadata["namespace"] = namespace
        elif said:
            raise bad_request("namespace may not be set on a cluster-scoped object")

    def _born(self, kind: Kind, metadata: dict[str, Any]) -> dict[str, Any]:
        for gone in ("selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "generation"):
            metadata.pop(gone, None)
        prefix = metadata.get("generateName")
        if prefix and isinstance(prefix, str) and not metadata.get("name"):
            if causes := check_name(kind.resource, prefix, generated=True):
                raise invalid(kind.kind, kind.group, prefix, causes)
            longest = 63 if kind.resource in {"pods", "services", "namespaces"} else 253
            metadata["name"] = prefix[: longest - 5] + "".join(self._random.choices(_SUFFIX, k=5))
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = timestamp(self._clock())
        if kind.generation:
            metadata["generation"] = 1
        return metadata

    def _keep_identity(self, obj: Obj, metadata: dict[str, Any]) -> Obj:
        kept = dict(obj["metadata"])
        for key in ("name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion", "generateName"):
            if key in metadata:
                kept[key] = metadata[key]
        return {**obj, "metadata": kept}

    def _check_namespace(self, kind: Kind, metadata: dict[str, Any], promised: frozenset[str]) -> None:
        if not kind.namespaced or metadata["namespace"] in promised:
            return
        namespace = self._store.get("namespaces", "", metadata["namespace"])
        if namespace is None:
            raise not_found("namespaces", metadata["namespace"])
        if "deletionTimestamp" in namespace.obj["metadata"]:
            why = f"unable to create new content in namespace {metadata['namespace']} because it is being terminated"
            refusal = forbidden(kind.resource, str(metadata.get("name", "")), why)
            refusal.details["causes"] = [
                {
                    "reason": "NamespaceTerminating",
                    "message": f"namespace {metadata['namespace']} is being terminated",
                    "field": "metadata.namespace",
                }
            ]
            raise refusal

    async def _draft_update(
        self,
        kind: Kind,
        version: Version,
        base: Stored,
        body: Obj,
        options: Options,
        subresource: str,
        fields: ownership.Fields | None = None,
    ) -> _Draft:
        old: Obj = {**base.obj, "apiVersion": kind.api_version(version.name)}
        was: dict[str, Any] = old["metadata"]
        said = body["metadata"]
        self._check_same(kind, was, said)
        if subresource == "status":
            obj = {**old, "metadata": dict(was)}
            obj.pop("status", None)
            if body.get("status") is not None:
                obj["status"] = body["status"]
        else:
            obj = {**body, "metadata": _kept_metadata(said, was)}
            if kind.status:
                obj.pop("status", None)
                if "status" in old:
                    obj["status"] = old["status"]
            if kind.resource == "services":
                _keep_cluster_ip(obj, old)
        obj = conforming.conform(kind, version, obj, validation=options.validation, warnings=options.warnings)
        review = self._review(kind, version, "UPDATE", obj, options, subresource)
        admitted = await self._admission.mutate(review, obj, old, options.warnings)
        if admitted is not obj:
            obj = conforming.conform(kind, version, self._keep_identity(admitted or obj, was))
        if kind.generation and conforming.main_part(kind, obj) != conforming.main_part(kind, old):
            obj["metadata"]["generation"] = was.get("generation", 0) + 1
        if not subresource:
            conforming.check_rules(kind, obj, old)
        await self._admission.validate(review, obj, old, options.warnings)
        self._finish(kind, obj)
        before = [dict(one) for one in was.get("managedFields") or ()]
        now = timestamp(self._clock())
        same = _bare(obj) == _bare(old)
        if fields is None:
            if same:
                return _Draft(Write(kind.resource, _key(obj), base.obj), base, kind, unchanged=True)
            fields = ownership.Fields(before, _fields_schema(kind, version))
            fields.update(
                old, obj, manager=options.manager, subresource=subresource, version=obj["apiVersion"], now=now
            )
        elif same and _untimed(fields.entries) == _untimed(before):
            return _Draft(Write(kind.resource, _key(obj), base.obj), base, kind, unchanged=True)
        obj["metadata"]["managedFields"] = fields.entries
        return _Draft(Write(kind.resource, _key(obj), obj), base, kind)

    async def _draft_apply(
        self,
        kind: Kind,
        version: Version,
        key: tuple[str, str],
        body: Any,
        options: Options,
        subresource: str,
        promised: frozenset[str] = frozenset(),
    ) -> _Draft:
        applied = conforming.check_identity(kind, version, body)
        if applied["metadata"].get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        if applied["metadata"].get("name", key[1]) != key[1]:
            raise bad_request("the name of the object does not match the name on the URL")
        applied["metadata"] = {**applied["metadata"], "name": key[1]}
        schema = _fields_schema(kind, version)
        now = timestamp(self._clock())
        base = self._store.get(kind.resource, *key)
        settings: dict[str, Any] = {"manager": options.manager, "subresource": subresource, "now": now}
        settings |= {"version": applied["apiVersion"], "force": options.force}
        if base is None:
            if subresource:
                raise not_found(kind.resource, key[1])
            if applied["metadata"].get("uid"):
                raise conflict(kind.resource, key[1], "the object to be applied no longer exists")

            def entries(_obj: Obj) -> list[dict[str, Any]]:
                fresh = ownership.Fields(None, schema)
                fresh.apply(None, applied, **settings)
                return fresh.entries

            return await self._draft_create(kind, version, key[0], applied, options, promised, entries)
        self._check_same(kind, base.obj["metadata"], applied["metadata"])
        fields = ownership.Fields(base.obj["metadata"].get("managedFields"), schema)
        old: Obj = {**base.obj, "apiVersion": applied["apiVersion"]}
        merged, conflicts = fields.apply(old, applied, **settings)
        if conflicts:
            raise apply_conflict(kind.resource, key[1], conflicts)
        return await self._draft_update(kind, version, base, merged, options, subresource, fields)

    def _check_same(self, kind: Kind, was: dict[str, Any], said: dict[str, Any]) -> None:
        if said.get("name", was["name"]) != was["name"]:
            raise bad_request(
                f"the name of the object ({said.get('name')}) does not match the name on the URL ({was['name']})"
            )
        if said.get("namespace") not in {None, "", was.get("namespace")}:
            raise bad_request(
                f"the namespace of the object ({said.get('namespace')}) does not match the namespace on the request "
                f"({was.get('namespace', '')})"
            )
        if said.get("resourceVersion") not in {None, "", "0", was["resourceVersion"]}:
            raise conflict(kind.resource, was["name"])
        if said.get("uid") not in {None, "", was["uid"]}:
            raise conflict(kind.resource, was["name"], _other_uid(said["uid"], was["uid"]))
        if "deletionTimestamp" in was and set(said.get("finalizers") or ()) - set(was.get("finalizers") or ()):
            what = "Forbidden: no new finalizers can be added if the object is being deleted"
            raise invalid(
                kind.kind, kind.group, was["name"], [Cause("FieldValueForbidden", "metadata.finalizers", what)]
            )

    def _review(
        self,
        kind: Kind,
        version: Version,
        operation: Literal["CREATE", "UPDATE"],
        obj: Obj,
        options: Options,
        subresource: str = "",
    ) -> Review:
        metadata = obj["metadata"]
        namespace = metadata.get("namespace", "") or (metadata["name"] if kind.resource == "namespaces" else "")
        said = {"kind": f"{operation.capitalize()}Options", "apiVersion": "meta.k8s.io/v1"}
        return Review(
            kind, version, operation, namespace, metadata["name"], options.caller, subresource, options.dry_run, said
        )

    def _finish(self, kind: Kind, obj: Obj) -> None:
        """What the API itself says of an object."""
        if kind.resource == custom.CRDS:
            obj["status"] = custom.established(obj, timestamp(self._clock()))
            taken = self._kinds.get(f"{obj['spec']['names']['plural']}.{obj['spec']['group']}")
            if taken and not taken.custom:
                raise invalid(
                    kind.kind, kind.group, obj["metadata"]["name"],
                    [Cause("FieldValueForbidden", "spec.group", "Forbidden: the kind is built in")],
                )  # fmt: skip

    # --- commit ---------------------------------------------------------------------------------------------------

    def _commit(self, drafts: Sequence[_Draft], options: Options) -> list[Stored]:
        for draft in drafts:
            if self._store.get(draft.write.resource, *draft.write.key) is not draft.base:
                name = draft.write.key[1]
                raise (already_exists if draft.base is None else conflict)(draft.kind.resource, name)
        if options.dry_run:
            return [
                draft.base if draft.unchanged and draft.base else Stored(draft.write.obj, self._store.revision)
                for draft in drafts
            ]
        changing = [draft for draft in drafts if not draft.unchanged]
        stored = iter(self._store.commit([draft.write for draft in changing]))
        results = [draft.base if draft.unchanged and draft.base else next(stored) for draft in drafts]
        for draft in changing:
            self._settle(draft)
        return results

    def _settle(self, draft: _Draft) -> None:
        """What follows from a commit at once."""
        obj = draft.write.obj
        if draft.kind.resource == custom.CRDS:
            self._kinds.add(custom.kind_of(obj))
        metadata = obj["metadata"]
        done = "deletionTimestamp" in metadata and not metadata.get("finalizers")
        if done and not metadata.get("deletionGracePeriodSeconds"):
            if draft.kind.resource == "namespaces" and self._contents(metadata["name"]):
                return
            self._remove(draft.kind, draft.write.key, {**obj, "metadata": dict(metadata)})


def _other_uid(wanted: str, found: str) -> str:
    return f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"


def _key(obj: Obj) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _grace(kind: Kind, obj: Obj, asked: int | None) -> int:
    """Seconds that a deletion waits for the node agent: only pods that run somewhere."""
    if kind.resource != "pods":
        return 0
    if not (obj.get("spec") or {}).get("nodeName") or (obj.get("status") or {}).get("phase") in {"Succeeded", "Failed"}:
        return 0
    return max(0, asked if asked is not None else obj["spec"].get("terminationGracePeriodSeconds", 30))


def _kept_metadata(said: dict[str, Any], was: dict[str, Any]) -> dict[str, Any]:
    """Metadata of an update: the caller's labels, annotations, owners and finalizers; the rest is the API's."""
    kept = dict(said)
    for key in ("selfLink", "managedFields", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"):
        kept.pop(key, None)
    for key in (
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "generation",
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "managedFields",
    ):
        if key in was:
            kept[key] = was[key]
    return kept


def _keep_cluster_ip(obj: Obj, old: Obj) -> None:
    """An update that does not mention the address keeps the one that was allocated."""
    spec, before = dict(obj.get("spec") or {}), old.get("spec") or {}
    if spec.get("type", "ClusterIP") != "ExternalName" and before.get("clusterIP"):
        for key in ("clusterIP", "clusterIPs"):
            if not spec.get(key) and before.get(key):
                spec[key] = before[key]
        obj["spec"] = spec


def _bare(obj: Obj) -> Obj:
    """An object without what changes with every write."""
    metadata = {k: v for k, v in obj["metadata"].items() if k not in {"managedFields", "resourceVersion"}}
    return {**{k: v for k, v in obj.items() if k != "apiVersion"}, "metadata": metadata}


def _untimed(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    bare = [{k: v for k, v in one.items() if k != "time"} for one in entries]
    return sorted(bare, key=lambda one: (one["manager"], one["operation"], one.get("subresource", "")))


def _fields_schema(kind: Kind, version: Version) -> Schema:
    if not kind.custom:
        return version.schema
    properties = {**(version.schema.get("properties") or {}), "metadata": metadata_schema()}
    return {**version.schema, "properties": properties}


__all__ = ["SYSTEM", "Options", "Precondition", "RefusedError", "Writer", "timestamp"]
