"""Converts a CustomResourceDefinition to a kind: names, versions, schemas, printer columns, subresources. Pure.

Also validates the definition, and makes its status: a definition is established at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import re2

from deploy.devcluster.apiserver.kinds.kind_registry import (
    Cell,
    KindVersion,
    PrinterColumn,
    ResourceKind,
    ScalePaths,
)
from deploy.devcluster.apiserver.kinds.printer_columns import AGE, NAME, age
from deploy.devcluster.apiserver.status_errors import StatusCause, required, shown, wrong
from deploy.devcluster.cluster_api import Obj

CRDS = "customresourcedefinitions.apiextensions.k8s.io"

_STEP = re.compile(
    r"\.([\w-]+)|\[['\"]([^'\"]+)['\"]\]|\[(\*|\d+)\]|\[\?\(@\.([\w.-]+)\s*==\s*['\"]?([^'\")]*)['\"]?\)\]"
)


def kind_of(crd: Obj) -> ResourceKind:
    """The kind of a definition."""
    spec = crd["spec"]
    names = spec["names"]
    versions = sorted(spec["versions"], key=lambda one: _priority(one["name"]), reverse=True)
    subresources = [one.get("subresources") or {} for one in spec["versions"]]
    scale = next((one["scale"] for one in subresources if one.get("scale")), None)
    return ResourceKind(
        group=spec["group"],
        kind=names["kind"],
        plural=names["plural"],
        singular=names.get("singular") or names["kind"].lower(),
        versions=tuple(_version(one) for one in versions),
        namespaced=spec.get("scope") == "Namespaced",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        status=any("status" in one for one in subresources),
        scale=None
        if scale is None
        else ScalePaths(scale["specReplicasPath"], scale["statusReplicasPath"], scale.get("labelSelectorPath", "")),
        generation=True,
        custom=True,
    )


def _priority(version: str) -> tuple[int, int, int, str]:
    """Kubernetes' order of versions: v2 > v1 > v1beta2 > v1beta1 > v1alpha1 > anything else."""
    found = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version)
    if not found:
        return (0, 0, 0, version)
    major, stage, minor = found.groups()
    return ({"alpha": 1, "beta": 2}.get(stage or "", 3), int(major), int(minor or 0), "")


def _version(version: dict[str, Any]) -> KindVersion:
    schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
    described = version.get("additionalPrinterColumns") or ()
    printed = [
        PrinterColumn(
            name=str(one.get("name", "")),
            cell=_cell(str(one.get("jsonPath", "")), str(one.get("type", ""))),
            type=str(one.get("type", "string")),
            format=str(one.get("format", "")),
            description=str(one.get("description", "")),
            priority=int(one.get("priority", 0)),
        )
        for one in described
    ]
    deprecation = ""
    if version.get("deprecated"):
        deprecation = str(version.get("deprecationWarning") or f"{version['name']} is deprecated")
    return KindVersion(
        name=version["name"],
        schema=schema or {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        columns=(NAME, *(printed or (AGE,))),
        served=bool(version.get("served")),
        deprecation=deprecation,
    )


def _cell(path: str, column_type: str) -> Cell:
    def cell(obj: Obj, now: float) -> Any:
        found = json_path(obj, path)
        if not found:
            return None
        if column_type == "date":
            return age(found[0], now)
        if len(found) > 1:
            return ",".join(shown(one) if isinstance(one, (dict, list)) else str(one) for one in found)
        value = found[0]
        if isinstance(value, (dict, list)):
            return shown(value)
        return str(value) if column_type == "string" and not isinstance(value, str) else value

    return cell


def json_path(obj: Any, path: str) -> list[Any]:
    """Values at a simple JSONPath: `.a.b`, `[0]`, `[*]`, `['x']`, `[?(@.type=="Ready")]`."""
    found = [obj]
    for step in _STEP.finditer(path):
        name, quoted, index, key, wanted = step.groups()
        after: list[Any] = []
        for one in found:
            if name or quoted:
                if isinstance(one, dict) and (name or quoted) in one:
                    after.append(one[name or quoted])
            elif index == "*":
                after += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
            elif index is not None:
                after += one[int(index) : int(index) + 1] if isinstance(one, list) else ()
            elif isinstance(one, list):
                after += [item for item in one if json_path(item, f".{key}") == [wanted]]
        found = after
    return [one for one in found if one is not None]


def established(crd: Obj, now: str) -> dict[str, Any]:
    """The status of an established definition."""
    spec, old = crd["spec"], crd.get("status") or {}
    stored: list[str] = list(old.get("storedVersions") or ())
    storage = next((one["name"] for one in spec["versions"] if one.get("storage")), "")
    if storage and storage not in stored:
        stored.append(storage)
    conditions = old.get("conditions") or [
        {
            "type": "NamesAccepted",
            "status": "True",
            "lastTransitionTime": now,
            "reason": "NoConflicts",
            "message": "no conflicts found",
        },
        {
            "type": "Established",
            "status": "True",
            "lastTransitionTime": now,
            "reason": "InitialNamesAccepted",
            "message": "the initial names have been accepted",
        },
    ]
    return {"conditions": conditions, "acceptedNames": dict(spec["names"]), "storedVersions": stored}


def check(crd: Obj) -> Iterable[StatusCause]:
    """Causes why a definition is invalid."""
    spec = crd["spec"]
    names, group = spec.get("names") or {}, spec.get("group", "")
    wanted = f"{names.get('plural')}.{group}"
    if crd["metadata"].get("name") != wanted:
        yield wrong("metadata.name", crd["metadata"].get("name"), 'must be spec.names.plural+"."+spec.group')
    if "." not in group:
        yield wrong("spec.group", group, "should be a domain with at least one dot")
    if spec.get("scope") not in {"Namespaced", "Cluster"}:
        yield wrong("spec.scope", spec.get("scope"), 'must be "Cluster" or "Namespaced"')
    if (spec.get("conversion") or {}).get("strategy") != "None":
        yield wrong("spec.conversion.strategy", spec["conversion"], "the devcluster converts with strategy None only")
    versions = spec.get("versions") or []
    if sum(bool(one.get("storage")) for one in versions) != 1:
        yield wrong("spec.versions", [one.get("name") for one in versions],
                    "must have exactly one version marked as storage version")  # fmt: skip
    for index, version in enumerate(versions):
        path = f"spec.versions[{index}].schema.openAPIV3Schema"
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        if not isinstance(schema, dict):
            yield required(path, "schemas are required")
        else:
            yield from _check_schema(schema, path)
            if "status" in (version.get("subresources") or {}):
                yield from _check_root(schema, path)


_AT_ROOT = frozenset(
    {
        *("description", "type", "format", "title", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
        *(
            "maxLength",
            "minLength",
            "pattern",
            "maxItems",
            "minItems",
            "uniqueItems",
            "multipleOf",
            "required",
            "items",
        ),
        *("properties", "externalDocs", "example", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations"),
    }
)
"""Keywords allowed at the root of a schema with a status subresource (apiextensions validation)."""


def _check_root(schema: dict[str, Any], path: str) -> Iterable[StatusCause]:
    for name in sorted(set(schema) - _AT_ROOT):
        yield wrong(
            path, name, f"only {sorted(_AT_ROOT)} are allowed at the root of the schema if the status subresource is on"
        )


_NUMBER = (int, float)
_SPOKEN: dict[Any, str] = {str: "string", bool: "boolean", list: "list", dict: "map", _NUMBER: "number"}
_FORMS: dict[str, Any] = {
    **dict.fromkeys(("type", "format", "pattern", "x-kubernetes-list-type", "x-kubernetes-map-type"), str),
    **dict.fromkeys(("required", "enum", "allOf", "anyOf", "oneOf", "x-kubernetes-list-map-keys"), list),
    **dict.fromkeys(("nullable", "uniqueItems", "exclusiveMinimum", "exclusiveMaximum"), bool),
    **dict.fromkeys(("x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"), bool),
    **dict.fromkeys(("minimum", "maximum", "multipleOf", "minLength", "maxLength", "minItems", "maxItems"), _NUMBER),
    **dict.fromkeys(("minProperties", "maxProperties"), _NUMBER),
    "properties": dict,
    "x-kubernetes-embedded-resource": bool,
    "x-kubernetes-validations": list,
}
"""JSON type of each keyword; `schema.py` relies on them."""
_TYPES = frozenset({"string", "integer", "number", "boolean", "object", "array"})


def _check_schema(schema: Any, path: str, depth: int = 0) -> Iterable[StatusCause]:
    """Causes why `schema.py` could not evaluate a schema or one nested in it."""
    if not isinstance(schema, dict) or depth > 60:
        yield wrong(path, "", "must be a schema, nested at most 60 deep")
        return
    for name, wanted in _FORMS.items():
        if name in schema and not (
            isinstance(schema[name], wanted) and (wanted is not _NUMBER or schema[name] is not True)
        ):
            yield wrong(f"{path}.{name}", schema[name], f"must be a {_SPOKEN[wanted]}")
            return
    if schema.get("type", "object") not in _TYPES:
        yield wrong(f"{path}.type", schema["type"], "must be a type of JSON schema")
    if "pattern" in schema and not _compiles(schema["pattern"]):
        yield wrong(f"{path}.pattern", schema["pattern"], "must be a valid regular expression")
    for name in ("required", "x-kubernetes-list-map-keys"):
        if not all(isinstance(one, str) for one in schema.get(name, ())):
            yield wrong(f"{path}.{name}", schema[name], "must be a list of names")
            return
    for step, below in _below(schema):
        yield from _check_schema(below, f"{path}.{step}", depth + 1)


def _below(schema: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Nested schemas with their path steps."""
    for key, below in (schema.get("properties") or {}).items():
        yield f"properties[{key}]", below
    for name in ("items", "not"):
        if name in schema:
            yield name, schema[name]
    if not isinstance(schema.get("additionalProperties", True), bool):
        yield "additionalProperties", schema["additionalProperties"]
    for name in ("allOf", "anyOf", "oneOf"):
        for index, below in enumerate(schema.get(name, ())):
            yield f"{name}[{index}]", below


def _compiles(pattern: Any) -> bool:
    try:
        re2.compile(pattern, _quiet())
    except (re2.error, TypeError):
        return False
    return True


def _quiet() -> Any:
    """Options that keep RE2 from logging invalid patterns."""
    options = re2.Options()
    options.log_errors = False
    return options
