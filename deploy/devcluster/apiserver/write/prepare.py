"""Prepares writes: computes the object to store from the current object, without storing it.

The steps are those of Kubernetes, in its order: identity, types, defaults, admission, rules, managed fields. Webhook
calls take time, so `object_writer` commits a prepared write only if the object has not changed meanwhile.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from deploy.devcluster.apiserver.kinds import custom, object_validation
from deploy.devcluster.apiserver.kinds.builtin_rules import check_name
from deploy.devcluster.apiserver.kinds.builtin_schemas import Schema
from deploy.devcluster.apiserver.kinds.kind_registry import (
    KindRegistry,
    ResourceKind,
    ResourceTarget,
    metadata_schema,
)
from deploy.devcluster.apiserver.object_store import Key, ObjectWrite, Store, StoredObject
from deploy.devcluster.apiserver.status_errors import (
    StatusCause,
    already_exists,
    apply_conflict,
    bad_request,
    conflict,
    forbidden,
    invalid,
    not_found,
    other_uid,
)
from deploy.devcluster.apiserver.write import field_ownership
from deploy.devcluster.apiserver.write.admission_webhooks import (
    AdmissionAttributes,
    AdmissionWebhooks,
)
from deploy.devcluster.apiserver.write.write_options import WriteOptions, timestamp
from deploy.devcluster.cluster_api import Obj

_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
_IDENTITY = ("name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion", "generateName")
_MARKED = ("deletionTimestamp", "deletionGracePeriodSeconds")


class PreparedWrite(msgspec.Struct, frozen=True):
    """A write that is ready to be committed."""

    kind: ResourceKind
    write: ObjectWrite
    base: StoredObject | None
    """The object that the write was prepared from; None if there was none."""
    unchanged: bool = False
    """True if there is nothing to store."""


class WritePreparer:
    """Prepares creations, updates and applies."""

    def __init__(
        self, store: Store, kinds: KindRegistry, admission: AdmissionWebhooks, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._admission = admission
        self._clock = clock
        self._random = random.SystemRandom()

    async def create(
        self,
        target: ResourceTarget,
        body: Any,
        options: WriteOptions,
        *,
        promised: frozenset[str] = frozenset(),
        applied: bool = False,
    ) -> PreparedWrite:
        """Prepare a creation. `promised`: namespaces created in the same commit; `applied`: by server-side apply.

        Raises 400, 403, 404 (namespace), 409 `AlreadyExists`, 422.
        """
        kind = target.kind
        obj = object_validation.check_identity(kind, target.version, body)
        given = obj
        metadata = dict(obj["metadata"])
        obj = {**obj, "metadata": metadata}
        if metadata.get("resourceVersion"):
            raise object_validation.refuse_resource_version()
        _place(kind, metadata, target.namespace)
        self._bear(kind, metadata)
        self._check_namespace(kind, metadata, promised)
        if kind.status:
            obj.pop("status", None)
        obj = object_validation.conform(
            kind, target.version, obj, validation=options.validation, warnings=options.warnings
        )
        name = str(obj["metadata"].get("name", ""))
        if not name:
            raise invalid(kind.kind, kind.group, "", check_name(kind.resource, ""))
        if self._store.get(kind.resource, metadata.get("namespace", ""), name):
            raise already_exists(kind.resource, name)
        review = _review(target, "CREATE", obj, options)
        admitted = await self._admission.mutate(review, obj, None, options.warnings)
        if admitted is not obj:
            obj = object_validation.conform(kind, target.version, _keep(admitted or obj, metadata))
        object_validation.check_rules(kind, obj, None)
        await self._admission.validate(review, obj, None, options.warnings)
        self._finish(kind, obj)
        fields = field_ownership.ManagedFields(None, fields_schema(target))
        writer = self._writer(target, options)
        if applied:
            fields.apply(None, given, writer, force=True)
        else:
            fields.update(None, obj, writer)
        obj["metadata"]["managedFields"] = fields.entries
        return PreparedWrite(kind, ObjectWrite(kind.resource, _key(obj), obj), None)

    async def update(
        self,
        target: ResourceTarget,
        base: StoredObject,
        body: Obj,
        options: WriteOptions,
        fields: field_ownership.ManagedFields | None = None,
    ) -> PreparedWrite:
        """Prepare an update. `fields`: the managed fields, if the caller (apply) has computed them.

        Raises 400, 403, 409 `Conflict`, 422.
        """
        kind = target.kind
        old: Obj = {**base.obj, "apiVersion": target.api_version}
        was: dict[str, Any] = old["metadata"]
        _check_same(kind, was, body["metadata"])
        if target.subresource == "status":
            obj, conform = _status_only(old, body), object_validation.conform_status
        else:
            obj, conform = _main_only(kind, old, body), object_validation.conform
        obj = conform(kind, target.version, obj, validation=options.validation, warnings=options.warnings)
        review = _review(target, "UPDATE", obj, options)
        admitted = await self._admission.mutate(review, obj, old, options.warnings)
        if admitted is not obj:
            obj = object_validation.conform(kind, target.version, _keep(admitted or obj, was))
        if kind.generation and object_validation.main_part(kind, obj) != object_validation.main_part(kind, old):
            obj["metadata"]["generation"] = was.get("generation", 0) + 1
        if not target.subresource:
            object_validation.check_rules(kind, obj, old)
        await self._admission.validate(review, obj, old, options.warnings)
        self._finish(kind, obj)
        same = _bare(obj) == _bare(old)
        before = was.get("managedFields") or []
        if same and (fields is None or _untimed(fields.entries) == _untimed(before)):
            return PreparedWrite(kind, ObjectWrite(kind.resource, target.key, base.obj), base, unchanged=True)
        if fields is None:
            fields = field_ownership.ManagedFields(before, fields_schema(target))
            fields.update(old, obj, self._writer(target, options))
        obj["metadata"]["managedFields"] = fields.entries
        return PreparedWrite(kind, ObjectWrite(kind.resource, target.key, obj), base)

    async def apply(
        self, target: ResourceTarget, body: Any, options: WriteOptions, *, promised: frozenset[str] = frozenset()
    ) -> PreparedWrite:
        """Prepare a server-side apply. Raises the errors of `create` and `update`, and 409 with conflicting fields."""
        kind, key = target.kind, target.key
        applied = object_validation.check_identity(kind, target.version, body)
        if applied["metadata"].get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        if applied["metadata"].get("name", key[1]) != key[1]:
            raise bad_request("the name of the object does not match the name on the URL")
        applied["metadata"] = {**applied["metadata"], "name": key[1]}
        base = self._store.get(kind.resource, *key)
        if base is None:
            if target.subresource:
                raise not_found(kind.resource, key[1])
            if applied["metadata"].get("uid"):
                raise conflict(kind.resource, key[1], "the object to be applied no longer exists")
            return await self.create(target, applied, options, promised=promised, applied=True)
        _check_same(kind, base.obj["metadata"], applied["metadata"])
        fields = field_ownership.ManagedFields(base.obj["metadata"].get("managedFields"), fields_schema(target))
        old: Obj = {**base.obj, "apiVersion": applied["apiVersion"]}
        merged, conflicts = fields.apply(old, applied, self._writer(target, options), force=options.force)
        if conflicts:
            raise apply_conflict(kind.resource, key[1], conflicts)
        return await self.update(target, base, merged, options, fields)

    # --- steps ----------------------------------------------------------------------------------------------------

    def _writer(self, target: ResourceTarget, options: WriteOptions) -> field_ownership.FieldManager:
        return field_ownership.FieldManager(
            options.manager, target.subresource, target.api_version, timestamp(self._clock())
        )

    def _bear(self, kind: ResourceKind, metadata: dict[str, Any]) -> None:
        """Set name, UID, creation time and generation of a new object."""
        for gone in ("selfLink", "managedFields", "generation", *_MARKED):
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

    def _check_namespace(self, kind: ResourceKind, metadata: dict[str, Any], promised: frozenset[str]) -> None:
        if not kind.namespaced or metadata["namespace"] in promised:
            return
        name = metadata["namespace"]
        namespace = self._store.get("namespaces", "", name)
        if namespace is None:
            raise not_found("namespaces", name)
        if "deletionTimestamp" in namespace.obj["metadata"]:
            why = f"unable to create new content in namespace {name} because it is being terminated"
            refusal = forbidden(kind.resource, str(metadata.get("name", "")), why)
            cause = {"reason": "NamespaceTerminating", "message": f"namespace {name} is being terminated"}
            refusal.details["causes"] = [{**cause, "field": "metadata.namespace"}]
            raise refusal

    def _finish(self, kind: ResourceKind, obj: Obj) -> None:
        """Set fields that the API server owns: the status of a definition. Raises 422."""
        if kind.resource == custom.CRDS:
            obj["status"] = custom.established(obj, timestamp(self._clock()))
            taken = self._kinds.get(f"{obj['spec']['names']['plural']}.{obj['spec']['group']}")
            if taken and not taken.custom:
                cause = StatusCause("FieldValueForbidden", "spec.group", "Forbidden: the kind is built in")
                raise invalid(kind.kind, kind.group, obj["metadata"]["name"], [cause])


def fields_schema(target: ResourceTarget) -> Schema:
    """The schema of a whole object, including `metadata`."""
    if not target.kind.custom:
        return target.version.schema
    properties = {**(target.version.schema.get("properties") or {}), "metadata": metadata_schema()}
    return {**target.version.schema, "properties": properties}


def _key(obj: Obj) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _place(kind: ResourceKind, metadata: dict[str, Any], namespace: str) -> None:
    given = metadata.get("namespace")
    if kind.namespaced:
        if given and given != namespace:
            raise bad_request(
                f"the namespace of the provided object does not match the namespace sent on the request ({namespace})"
            )
        metadata["namespace"] = namespace
    elif given:
        raise bad_request("namespace may not be set on a cluster-scoped object")


def _keep(obj: Obj, was: dict[str, Any]) -> Obj:
    """An object that a webhook patched, with its identity restored."""
    return {**obj, "metadata": {**obj["metadata"], **{key: was[key] for key in _IDENTITY if key in was}}}


def _review(
    target: ResourceTarget, operation: Literal["CREATE", "UPDATE"], obj: Obj, options: WriteOptions
) -> AdmissionAttributes:
    metadata = obj["metadata"]
    given = {"kind": f"{operation.capitalize()}Options", "apiVersion": "meta.k8s.io/v1"}
    return AdmissionAttributes(
        target=msgspec.structs.replace(target, namespace=metadata.get("namespace", ""), name=metadata["name"]),
        operation=operation,
        caller=options.caller,
        dry_run=options.dry_run,
        options=given,
    )


def _status_only(old: Obj, body: Obj) -> Obj:
    obj = {**old, "metadata": dict(old["metadata"])}
    obj.pop("status", None)
    if body.get("status") is not None:
        obj["status"] = body["status"]
    return obj


def _main_only(kind: ResourceKind, old: Obj, body: Obj) -> Obj:
    """The body, with fields that a caller cannot set taken from the old object."""
    was = old["metadata"]
    metadata = dict(body["metadata"])
    for key in ("selfLink", "managedFields", "generation", *_MARKED):
        metadata.pop(key, None)
    metadata |= {key: was[key] for key in (*_IDENTITY, *_MARKED, "managedFields") if key in was}
    obj = {**body, "metadata": metadata}
    if kind.status:
        obj.pop("status", None)
        if "status" in old:
            obj["status"] = old["status"]
    if kind.resource == "services":
        _keep_cluster_ip(obj, old)
    return obj


def _keep_cluster_ip(obj: Obj, old: Obj) -> None:
    """Keep the allocated address if an update does not contain it."""
    spec, before = obj.get("spec"), old.get("spec") or {}
    if not isinstance(spec, dict):
        return  # validation rejects it later
    spec = dict(spec)
    if spec.get("type", "ClusterIP") != "ExternalName" and before.get("clusterIP"):
        for key in ("clusterIP", "clusterIPs"):
            if not spec.get(key) and before.get(key):
                spec[key] = before[key]
        obj["spec"] = spec


def _check_same(kind: ResourceKind, was: dict[str, Any], given: dict[str, Any]) -> None:
    """Raises 400, 409 or 422 if the body does not refer to this object at its current version."""
    if given.get("name", was["name"]) != was["name"]:
        raise bad_request(
            f"the name of the object ({given.get('name')}) does not match the name on the URL ({was['name']})"
        )
    if given.get("namespace") not in {None, "", was.get("namespace")}:
        raise bad_request(
            f"the namespace of the object ({given.get('namespace')}) does not match the namespace on the request "
            f"({was.get('namespace', '')})"
        )
    if given.get("resourceVersion") not in {None, "", "0", was["resourceVersion"]}:
        raise conflict(kind.resource, was["name"])
    if given.get("uid") not in {None, "", was["uid"]}:
        raise conflict(kind.resource, was["name"], other_uid(str(given["uid"]), was["uid"]))
    if "deletionTimestamp" in was and set(given.get("finalizers") or ()) - set(was.get("finalizers") or ()):
        what = "Forbidden: no new finalizers can be added if the object is being deleted"
        raise invalid(
            kind.kind, kind.group, was["name"], [StatusCause("FieldValueForbidden", "metadata.finalizers", what)]
        )


def _bare(obj: Obj) -> Obj:
    """An object without fields that change with every write."""
    metadata = {key: value for key, value in obj["metadata"].items() if key not in {"managedFields", "resourceVersion"}}
    return {**{key: value for key, value in obj.items() if key != "apiVersion"}, "metadata": metadata}


def _untimed(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    bare = [{key: value for key, value in one.items() if key != "time"} for one in entries]
    return sorted(bare, key=lambda one: (one["manager"], one["operation"], one.get("subresource", "")))
