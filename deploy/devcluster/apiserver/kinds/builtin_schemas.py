"""Structural schemas of the built-in kinds, so that one engine (`schema.py`) validates built-in and custom kinds.

`shapes.txt` has one type per line; `tools/kubernetes_shapes.py` generates it and explains the notation. The schemas
have the form of a CustomResourceDefinition's, plus `title` (the Go type, which error messages name) and
`x-kubernetes-patch-merge-key` (for strategic merge patches).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

Schema = dict[str, Any]
"""An OpenAPI v3 schema as Kubernetes structures them."""

_PLAIN: dict[str, Schema] = {
    "s": {"type": "string"},
    "i": {"type": "integer", "format": "int64"},
    "n": {"type": "number"},
    "b": {"type": "boolean"},
    "t": {"type": "string", "format": "date-time"},
    "q": {"x-kubernetes-quantity": True},
    "x": {"x-kubernetes-int-or-string": True},
    "c": {"type": "string", "format": "byte"},
    "*": {"x-kubernetes-preserve-unknown-fields": True},
}


@cache
def shapes() -> dict[str, Schema]:
    """All schemas by Go type. Cached and shared: callers must not modify them."""
    rows = [line.split(" ") for line in Path(__file__).with_name("shapes.txt").read_text().splitlines()]
    types: dict[str, Schema] = {row[0]: {"type": "object", "title": row[0]} for row in rows}
    memo: dict[str, Schema] = {}
    for name, *fields in rows:
        properties: dict[str, Schema] = {}
        required: list[str] = []
        for field in fields:
            wire, _, spelled = field.partition(":")
            if wire.endswith("!"):
                wire = wire[:-1]
                required.append(wire)
            properties[wire] = _parse(spelled, types, memo)
        types[name] |= {"properties": properties, "required": required}
    return types


def _parse(spelled: str, types: dict[str, Schema], memo: dict[str, Schema]) -> Schema:
    if spelled in _PLAIN:
        return _PLAIN[spelled]
    if spelled in types:
        return types[spelled]
    if spelled in memo:
        return memo[spelled]
    inner, _, keys = spelled[1:].rpartition("}" if spelled[0] == "{" else "]")
    if spelled[0] == "{":
        schema: Schema = {"type": "object", "additionalProperties": _parse(inner, types, memo)}
    else:
        schema = {"type": "array", "items": _parse(inner, types, memo)}
        if keys == "@":
            schema |= {"x-kubernetes-list-type": "set", "x-kubernetes-patch-merge-key": ""}
        elif keys:
            names = keys[1:].split(",")
            schema |= {
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": names,
                "x-kubernetes-patch-merge-key": names[0],
            }
    memo[spelled] = schema
    return schema
