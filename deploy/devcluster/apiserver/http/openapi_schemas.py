"""Converts schemas to their OpenAPI form: shared types become references, merge keys become extensions.

`kubectl explain` prints the schemas; `kubectl apply` reads the merge keys.
"""

from __future__ import annotations

from typing import Any

from deploy.devcluster.apiserver.kinds.builtin_schemas import Schema, shapes
from deploy.devcluster.apiserver.kinds.kind_registry import KindVersion, ResourceKind, metadata_schema

_OWN = frozenset({"title", "x-kubernetes-patch-merge-key"})
"""Keys with another meaning in OpenAPI."""


def published(kind: ResourceKind, version: KindVersion, schemas: dict[str, Any]) -> Schema:
    """A kind's schema; shared types that it refers to are added to `schemas`."""
    known = {id(schema): name for name, schema in shapes().items()}
    if not kind.custom:
        return _spell(version.schema, schemas, known)
    properties = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        **(version.schema.get("properties") or {}),
        "metadata": metadata_schema(),
    }
    return _spell({**version.schema, "properties": properties}, schemas, known)


def _refer(schema: Schema, schemas: dict[str, Any], known: dict[int, str]) -> Any:
    name = known.get(id(schema))
    if name is None:
        return _spell(schema, schemas, known)
    full = f"core.v1.{name}"
    if full not in schemas:
        schemas[full] = {}  # before its fields: types may refer to themselves
        schemas[full] = _spell(schema, schemas, known)
    return {"$ref": f"#/components/schemas/{full}"}


def _spell(schema: Schema, schemas: dict[str, Any], known: dict[int, str]) -> Schema:
    if "x-kubernetes-quantity" in schema:
        return {"oneOf": [{"type": "string"}, {"type": "number"}]}
    spelled = {key: value for key, value in schema.items() if key not in _OWN}
    if schema.get("x-kubernetes-int-or-string"):
        spelled |= {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}
    merge_key = schema.get("x-kubernetes-patch-merge-key")
    if merge_key is not None:
        spelled["x-kubernetes-patch-strategy"] = "merge"
    if merge_key:
        spelled["x-kubernetes-patch-merge-key"] = merge_key
    if "properties" in schema:
        spelled["properties"] = {key: _refer(value, schemas, known) for key, value in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            spelled[key] = _refer(schema[key], schemas, known)
    return spelled
