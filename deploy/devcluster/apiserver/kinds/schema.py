"""Validates values against structural schemas (`apiextensions.k8s.io/v1`), prunes unknown fields, fills in defaults.

`fit` returns a new value, and collects unknown fields and causes (in the messages of Kubernetes) in a `FitResult`. Of
CEL rules (`x-kubernetes-validations`) only those about presence are evaluated. Pure.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import re2

from deploy.devcluster.apiserver.kinds.builtin_schemas import Schema
from deploy.devcluster.apiserver.kinds.cel_presence import holds
from deploy.devcluster.apiserver.status_errors import (
    StatusCause,
    duplicate,
    required,
    shown,
    unsupported,
    wrong,
)

_QUANTITY = re.compile(r"^[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?$")
_TIME = re.compile(r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$")
_RANGES = {"int32": 1 << 31, "int64": 1 << 63}
_COMPOSITES = ("allOf", "anyOf", "oneOf", "not")


class TypeMismatch(msgspec.Struct, frozen=True):
    """A value of the wrong JSON type in a built-in kind: Kubernetes fails to decode it (400)."""

    found: str
    """JSON type: `string`, `number`, …"""
    field: str
    """`DeploymentSpec.spec.replicas`: Go type of the parent, then the path."""
    wanted: str


class FitResult(msgspec.Struct):
    """Findings of `fit`."""

    unknown: list[str] = []
    """Paths of unknown fields, which were dropped."""
    causes: list[StatusCause] = []
    mismatches: list[TypeMismatch] = []
    decode: bool = False
    """True if wrong types are `mismatches` (built-in kinds) instead of `causes` (custom resources)."""


def fit(schema: Schema, value: Any, path: str, found: FitResult, parent: str = "") -> Any:
    """Returns the pruned and defaulted value; adds findings to `found`."""
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            _mistyped(value, "integer,string", path, found, parent)
        return value
    if "x-kubernetes-quantity" in schema:
        return _quantity(value, path, found, parent)
    wanted = schema.get("type", "")
    if value is None and schema.get("nullable"):
        return None
    if wanted and not _is(value, wanted):
        _mistyped(value, wanted, path, found, parent)
        return value
    value = _fit_typed(schema, value, path, found, parent)
    if "enum" in schema and value not in schema["enum"]:
        found.causes.append(unsupported(path, value, schema["enum"]))
    for composite in _COMPOSITES:
        if composite in schema:
            _check_composite(composite, schema[composite], value, path, found)
    if "x-kubernetes-validations" in schema and isinstance(value, dict):
        _check_rules(schema["x-kubernetes-validations"], value, path, found)
    return value


def _check_rules(rules: list[Any], value: dict[str, Any], path: str, found: FitResult) -> None:
    for rule in rules:
        if isinstance(rule, dict) and not holds(str(rule.get("rule", "")), value):
            given = str(rule.get("message") or f"failed rule: {rule['rule']}")
            found.causes.append(StatusCause("FieldValueInvalid", path or "<nil>", f'Invalid value: "object": {given}'))


def _fit_typed(schema: Schema, value: Any, path: str, found: FitResult, parent: str) -> Any:
    if isinstance(value, dict):
        return _fit_object(schema, value, path, found)
    if isinstance(value, list):
        return _fit_list(schema, value, path, found, parent)
    if isinstance(value, str):
        _check_text(schema, value, path, found)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_number(schema, value, path, found)
    return value


_TYPES = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    dict: "object",
    list: "array",
    type(None): "null",
}


def json_type(value: Any) -> str:
    """The JSON type of a value."""
    name = _TYPES.get(type(value))
    if name is not None:
        return name
    return next((name for kind, name in _TYPES.items() if isinstance(value, kind)), "null")


def _is(value: Any, wanted: str) -> bool:
    actual = json_type(value)
    return (
        actual == wanted
        or (wanted == "number" and actual == "integer")
        or (wanted == "integer" and isinstance(value, float) and value.is_integer())
    )


def _mistyped(value: Any, wanted: str, path: str, found: FitResult, parent: str) -> None:
    actual = json_type(value)
    if found.decode:
        go = {"integer": "int32", "boolean": "bool", "object": "map", "array": "slice"}.get(wanted, wanted)
        given = {"integer": "number", "boolean": "bool"}.get(actual, actual)
        found.mismatches.append(TypeMismatch(given, f"{parent}.{path}" if parent else path, go))
        return
    message = f"{path} in body must be of type {wanted}: {shown(actual)}"
    found.causes.append(StatusCause("FieldValueTypeInvalid", path, f"Invalid value: {shown(actual)}: {message}"))


def _fit_object(schema: Schema, value: dict[str, Any], path: str, found: FitResult) -> dict[str, Any]:
    properties: dict[str, Schema] = schema.get("properties") or {}
    title = schema.get("title", "") if found.decode else ""
    fitted: dict[str, Any] = {}
    for key, item in value.items():
        below = f"{path}.{key}" if path else key
        if key not in properties:
            additional = _fit_additional(schema, key, item, below, found)
            if additional is not _DROPPED:
                fitted[key] = additional
        # A null stands for an absent field, unless the schema allows null as a value.
        elif item is not None or properties[key].get("nullable"):
            fitted[key] = fit(properties[key], item, below, found, title)
    for key, below in properties.items():
        if key not in fitted and "default" in below:
            fitted[key] = fit(below, clone(below["default"]), f"{path}.{key}" if path else key, found, title)
    _check_count(schema, fitted, path, found)
    return fitted


_DROPPED = object()
_EMBEDDED = frozenset({"apiVersion", "kind", "metadata"})


def _fit_additional(schema: Schema, key: str, item: Any, path: str, found: FitResult) -> Any:
    """The value of a key that is not among the schema's properties: fitted, as it is, or `_DROPPED` if unknown."""
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict):
        title = schema.get("title", "") if found.decode else ""
        return "" if item is None and found.decode else fit(extra, item, path, found, title)
    if _keeps_unknown(schema) or (schema.get("x-kubernetes-embedded-resource") and key in _EMBEDDED):
        return item
    found.unknown.append(path)
    return _DROPPED


def _keeps_unknown(schema: Schema) -> bool:
    preserves = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return preserves or "type" not in schema or schema.get("additionalProperties") is True


def _check_count(schema: Schema, fitted: dict[str, Any], path: str, found: FitResult) -> None:
    for key in schema.get("required") or ():
        if key not in fitted:
            found.causes.append(required(f"{path}.{key}" if path else key))
    low, high = schema.get("minProperties"), schema.get("maxProperties")
    if low is not None and len(fitted) < low:
        found.causes.append(wrong(path, fitted, f"{path} in body should have at least {low} properties"))
    if high is not None and len(fitted) > high:
        found.causes.append(_too_many(path, len(fitted), high))


def _fit_list(schema: Schema, value: list[Any], path: str, found: FitResult, parent: str) -> list[Any]:
    items: Schema = schema.get("items") or {}
    fitted = [fit(items, item, f"{path}[{index}]", found, parent) for index, item in enumerate(value)]
    if "minItems" in schema and len(value) < schema["minItems"]:
        found.causes.append(wrong(path, len(value), f"{path} in body should have at least {schema['minItems']} items"))
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        found.causes.append(_too_many(path, len(value), schema["maxItems"]))
    listed = schema.get("x-kubernetes-list-type")
    keys: list[str] = schema.get("x-kubernetes-list-map-keys") or []
    if not found.decode and (schema.get("uniqueItems") or listed in {"set", "map"}):
        seen: set[bytes] = set()
        for index, item in enumerate(fitted):
            key = {name: item.get(name) for name in keys} if keys and isinstance(item, dict) else item
            mark = msgspec.json.encode(key, order="deterministic")
            if mark in seen:
                found.causes.append(duplicate(f"{path}[{index}]", key))
            seen.add(mark)
    return fitted


def _too_many(path: str, actual: int, limit: int) -> StatusCause:
    return StatusCause("FieldValueTooMany", path, f"Too many: {actual}: must have at most {limit} items")


def _check_text(schema: Schema, value: str, path: str, found: FitResult) -> None:
    if "minLength" in schema and len(value) < schema["minLength"]:
        found.causes.append(wrong(path, value, f"{path} in body should be at least {schema['minLength']} chars long"))
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        found.causes.append(
            StatusCause("FieldValueTooLong", path, f"Too long: may not be more than {schema['maxLength']} bytes")
        )
    if "pattern" in schema and not re2.search(schema["pattern"], value):
        found.causes.append(wrong(path, value, f"{path} in body should match '{schema['pattern']}'"))
    if schema.get("format") == "date-time" and not _TIME.match(value):
        found.causes.append(wrong(path, value, f"{path} in body must be of type date-time: {shown(value)}"))


def _check_number(schema: Schema, value: float, path: str, found: FitResult) -> None:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and (value <= low if schema.get("exclusiveMinimum") else value < low):
        than = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        found.causes.append(wrong(path, value, f"{path} in body should be {than} {low}"))
    if high is not None and (value >= high if schema.get("exclusiveMaximum") else value > high):
        than = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        found.causes.append(wrong(path, value, f"{path} in body should be {than} {high}"))
    step = schema.get("multipleOf")
    if step and value % step:
        found.causes.append(wrong(path, value, f"{path} in body should be a multiple of {step}"))
    limit = _RANGES.get(schema.get("format", ""))
    if limit and not -limit <= value < limit:
        found.causes.append(wrong(path, value, f"{path} in body must be of type {schema['format']}: {shown(value)}"))


def _check_composite(composite: str, branches: Any, value: Any, path: str, found: FitResult) -> None:
    path = path or "<nil>"
    results: list[list[StatusCause]] = []
    for branch in branches if isinstance(branches, list) else [branches]:
        trial = FitResult()
        # A branch only adds conditions; fields it does not mention are not "unknown" to it.
        fit(branch, value, "" if path == "<nil>" else path, trial)
        results.append(trial.causes)
    passed = sum(not causes for causes in results)
    if composite == "allOf":
        for causes in results:
            found.causes.extend(causes)
    elif composite == "anyOf" and not passed:
        found.causes.append(wrong(path, value, f"{path} in body must validate at least one schema (anyOf)"))
        found.causes.extend(results[0])
    elif composite == "oneOf" and passed != 1:
        seen = "none" if not passed else str(passed)
        message = f"{path} in body must validate one and only one schema (oneOf). Found {seen} valid"
        found.causes.append(wrong(path, value, message))
    elif composite == "not" and passed:
        found.causes.append(wrong(path, value, f"{path} in body must not validate the schema (not)"))


def _quantity(value: Any, path: str, found: FitResult, parent: str) -> Any:
    text = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _QUANTITY.match(text):
        found.mismatches.append(TypeMismatch(json_type(value), f"{parent}.{path}", "resource.Quantity"))
    return text


def clone(value: Any) -> Any:
    """A deep copy of JSON."""
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clone(item) for item in value]
    return value
