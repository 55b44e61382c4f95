"""Checks that a manifest has the types of its kind, before it is read as that kind.

An API server refuses an object whose `spec.ports` is a number. Verbs that read manifests without one (`compile`,
`check`, `plan`, `migrate`) rely on that, so types are checked here, with the shapes of Kubernetes and the schemas of
our own definitions. Missing or contradictory values are reported by the readers.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from cli.kubernetes.manifest_files import Manifest
from deploy.devcluster.apiserver.kinds.builtin_schemas import Schema, shapes
from shared.errors import BadInputError

_CRDS = Path(__file__).parents[2] / "deploy" / "crds"
_LIKE = {"DaemonSet": "Deployment"}
"""Kinds that the shapes lack, each with a kind that has the same fields, as far as they are read."""
_WORDS = {"object": "a mapping", "array": "a list", "string": "text", "integer": "a whole number", "number": "a number"}


def shaped(manifests: list[Manifest], *, custom: bool = False) -> list[Manifest]:
    """The same objects without fields that are null, which stand for fields that are not there.

    With `custom` also those of kinds that a CustomResourceDefinition of ours defines. Raises `BadInputError` for the
    first object with a type that differs from its kind's.
    """
    for manifest in manifests:
        schema = _builtin(manifest) or (_custom(manifest) if custom else None)
        if schema is None:
            continue
        _drop_nulls(manifest)
        fault = misfit(schema, manifest)
        if fault:
            raise BadInputError("manifest/shape", fault, about=_called(manifest))
    return manifests


def misfit(schema: Schema, value: Any, path: str = "") -> str:
    """The first field whose type differs from the schema's; empty if all fit."""
    wanted = str(schema.get("type", ""))
    if wanted and not _is(value, wanted):
        return f"{path or 'it'} must be {_WORDS.get(wanted, 'true or false')}, not {_kind(value)}"
    if schema.get("x-kubernetes-int-or-string") and (isinstance(value, bool) or not isinstance(value, int | str)):
        return f"{path} must be a whole number or text, not {_kind(value)}"
    if isinstance(value, dict):
        extra = schema.get("additionalProperties")
        known = schema.get("properties") or {}
        below = [(known.get(key, extra), f"{path}.{key}" if path else key, one) for key, one in value.items()]
    elif isinstance(value, list):
        below = [(schema.get("items"), f"{path}[{index}]", one) for index, one in enumerate(value)]
    else:
        return ""
    faults = (misfit(each, one, where) for each, where, one in below if isinstance(each, dict))
    return next((fault for fault in faults if fault), "")


def _is(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == "boolean"
    if wanted == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    types: dict[str, type | tuple[type, ...]] = {"object": dict, "array": list, "string": str, "number": (int, float)}
    return isinstance(value, types.get(wanted, bool))


def _kind(value: Any) -> str:
    names = ((bool, "true or false"), (dict, "a mapping"), (list, "a list"), (str, "text"), (int, "a number"))
    return next((name for kind, name in names if isinstance(value, kind)), "a number" if value is not None else "null")


def _drop_nulls(value: Any) -> None:
    """Drop null fields at every depth; a null in a list stays, and is reported as a wrong type."""
    below: list[Any] = []
    if isinstance(value, dict):
        for key in [key for key, one in value.items() if one is None]:
            del value[key]
        below = list(value.values())
    elif isinstance(value, list):
        below = value
    for one in below:
        _drop_nulls(one)


def _builtin(manifest: Manifest) -> Schema | None:
    """The schema of a kind by its name: Kubernetes' own do not differ between versions in the fields that are read."""
    group, kind = str(manifest.get("apiVersion", "")).rpartition("/")[0], str(manifest["kind"])
    theirs = "." not in group or group.endswith(".k8s.io")
    return shapes().get(_LIKE.get(kind, kind)) if theirs else None


def _custom(manifest: Manifest) -> Schema | None:
    group, _, version = str(manifest.get("apiVersion", "")).partition("/")
    for spec in _definitions():
        if spec["group"] == group and spec["names"]["kind"] == manifest["kind"]:
            found = [one for one in spec["versions"] if one["name"] == version]
            return found[0]["schema"]["openAPIV3Schema"] if found else None
    return None


@cache
def _definitions() -> list[dict[str, Any]]:
    import yaml

    texts = (path.read_text(encoding="utf-8") for path in sorted(_CRDS.glob("*.yaml")))
    return [one["spec"] for text in texts for one in yaml.load_all(text, Loader=yaml.CSafeLoader)]


def _called(manifest: Manifest) -> str:
    metadata = manifest["metadata"]
    prefix = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{manifest['kind']} {prefix}{metadata['name']}"
