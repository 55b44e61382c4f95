"""Validates an object of a client and fills in defaults: types, unknown fields, defaults, rules. Pure.

Each function returns a new object or raises a `StatusError`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from deploy.devcluster.apiserver.kinds import builtin_rules, custom, defaults
from deploy.devcluster.apiserver.kinds.kind_registry import KindVersion, ResourceKind, metadata_schema
from deploy.devcluster.apiserver.kinds.schema import FitResult, fit
from deploy.devcluster.apiserver.status_errors import StatusCause, StatusError, bad_request, invalid
from deploy.devcluster.cluster_api import Obj
from shared.io.decoding import UndecodableError, decode_any

Validation = Literal["Strict", "Warn", "Ignore"]
"""Treatment of unknown fields: rejected, dropped with a warning, dropped."""


def check_identity(kind: ResourceKind, version: KindVersion, body: Any) -> Obj:
    """Fill in missing `apiVersion` and `kind`. Raises 400 if the body is no object of this kind."""
    if not isinstance(body, dict):
        raise bad_request("the object provided is unrecognized (must be of type object)")
    wanted = kind.api_version(version.name)
    given = (body.get("apiVersion") or wanted, body.get("kind") or kind.kind)
    if given[0] != wanted:
        raise bad_request(
            f"the API version in the data ({given[0]}) does not match the expected API version ({wanted})"
        )
    if given[1] != kind.kind:
        raise bad_request(f"{kind.kind} in version {version.name!r} cannot be handled as a {given[1]}: kinds differ")
    _check_early(body.get("metadata") or {})
    return {**body, "apiVersion": wanted, "kind": kind.kind, "metadata": body.get("metadata") or {}}


def _check_early(metadata: Any) -> None:
    """Check the types of fields that are read before the whole object is validated."""
    if not isinstance(metadata, dict):
        raise bad_request("metadata is no object")
    for key in ("name", "generateName", "namespace", "uid", "resourceVersion"):
        if not isinstance(metadata.get(key), (str, type(None))):
            raise bad_request(f"metadata.{key} is no string")
    finalizers = metadata.get("finalizers")
    finalizers = [] if finalizers is None else finalizers
    if not isinstance(finalizers, list) or not all(isinstance(one, str) for one in finalizers):
        raise bad_request("metadata.finalizers is no list of strings")


def conform(
    kind: ResourceKind,
    version: KindVersion,
    obj: Obj,
    *,
    validation: Validation = "Ignore",
    warnings: list[str] | None = None,
) -> Obj:
    """Check types, treat unknown fields, fill in defaults. Raises 400, 422."""
    found = FitResult([], [], [], decode=not kind.custom)
    if kind.custom:
        meta = FitResult([], [], [], decode=True)
        metadata = fit(metadata_schema(), obj["metadata"], "metadata", meta)
        found.unknown += meta.unknown
        found.mismatches += meta.mismatches
        rest = {key: value for key, value in obj.items() if key not in {"apiVersion", "kind", "metadata"}}
        schema = {
            **version.schema,
            "properties": {
                key: value
                for key, value in (version.schema.get("properties") or {}).items()
                if key not in {"apiVersion", "kind", "metadata"}
            },
            "required": [
                key for key in version.schema.get("required") or () if key not in {"apiVersion", "kind", "metadata"}
            ],
        }
        fitted = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata}
        fitted |= fit(schema, rest, "", found)
    else:
        fitted = fit(version.schema, obj, "", found)
        fitted.setdefault("metadata", {})
    _refuse_mismatches(kind, version, found)
    _treat_unknown(found.unknown, validation, warnings)
    if found.causes:
        raise invalid(kind.kind, kind.group, str(fitted["metadata"].get("name", "")), _distinct(found.causes))
    if not kind.custom:
        defaults.fill(kind.resource, fitted)
    return fitted


def conform_status(
    kind: ResourceKind,
    version: KindVersion,
    obj: Obj,
    *,
    validation: Validation = "Ignore",
    warnings: list[str] | None = None,
) -> Obj:
    """`conform` for a write that replaces only `status`: all else is stored, hence conforms already. Raises 400, 422.

    The result shares everything but `status` with `obj`. A custom resource is validated whole, since the root of its
    schema may relate the status to other fields (`x-kubernetes-validations`).
    """
    schema = (version.schema.get("properties") or {}).get("status")
    if kind.custom or schema is None:
        return conform(kind, version, obj, validation=validation, warnings=warnings)
    found = FitResult([], [], [], decode=True)
    fitted = dict(obj)
    status = fitted.pop("status", None)
    if status is not None:
        fitted["status"] = fit(schema, status, "status", found, version.schema.get("title", ""))
    _refuse_mismatches(kind, version, found)
    _treat_unknown(found.unknown, validation, warnings)
    if found.causes:
        raise invalid(kind.kind, kind.group, str(obj["metadata"].get("name", "")), _distinct(found.causes))
    defaults.fill(kind.resource, fitted)
    return fitted


def _refuse_mismatches(kind: ResourceKind, version: KindVersion, found: FitResult) -> None:
    if not found.mismatches:
        return
    first = found.mismatches[0]
    path = re.sub(r"\[\d+\]", "", first.field)
    if first.wanted == "resource.Quantity":
        why = f"{path}: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    else:
        why = f"json: cannot unmarshal {first.found} into Go struct field {path} of type {first.wanted}"
    raise bad_request(f'{kind.kind} in version "{version.name}" cannot be handled as a {kind.kind}: {why}')


def _treat_unknown(unknown: list[str], validation: Validation, warnings: list[str] | None) -> None:
    if not unknown or validation == "Ignore":
        return
    sentences = [f'unknown field "{path}"' for path in unknown[:20]]
    if validation == "Strict":
        raise bad_request(f"strict decoding error: {', '.join(sentences)}")
    if warnings is not None:
        warnings.extend(sentences)


def _distinct(causes: list[StatusCause]) -> list[StatusCause]:
    return list({(one.field, one.message): one for one in causes}.values())[:50]


def check_rules(kind: ResourceKind, obj: Obj, old: Obj | None) -> None:
    """Check name, metadata and the rules of the kind. Raises 422."""
    metadata = obj["metadata"]
    causes = builtin_rules.check_name(kind.resource, metadata.get("name", "")) if old is None else []
    causes += builtin_rules.check_metadata(metadata)
    if not causes or old is not None:
        causes += builtin_rules.check(kind.resource, obj, old)
    if kind.resource == custom.CRDS:
        causes += custom.check(obj)
    if causes:
        raise invalid(kind.kind, kind.group, metadata.get("name", ""), _distinct(causes))


def body_object(raw: bytes) -> Any:
    """Decode the JSON body of a request. Raises 400."""
    try:
        return decode_any(raw)
    except UndecodableError as error:
        raise bad_request(f"the body is not valid JSON: {error}") from error


def main_part(kind: ResourceKind, obj: Mapping[str, Any]) -> dict[str, Any]:
    """The fields whose changes `metadata.generation` counts."""
    left = (
        {"metadata", "apiVersion", "kind", "status"}
        if kind.status or kind.custom
        else {"metadata", "apiVersion", "kind"}
    )
    return {key: value for key, value in obj.items() if key not in left}


def refuse_resource_version() -> StatusError:
    """400: an object to be created has a resource version."""
    return bad_request("resourceVersion should not be set on objects to be created")
