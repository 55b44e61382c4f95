"""Resolves a container's environment, command line and downward API fields. Pure.

The order is that of Kubernetes: variables of the node, `envFrom`, then `env` in order; later ones win. `$(NAME)` refers
to earlier variables, `$$` is a dollar sign, and a reference to an unknown name is left unchanged.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation

from deploy.devcluster.cluster_api import Obj
from shared.errors import MeshlogError

_REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']*)'\]")
_SUFFIXES = {
    "m": Decimal("0.001"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
}

Lookup = Callable[[str, str], Obj | None]
"""(`configmaps` or `secrets`, name) → the object in the pod's namespace, if it exists."""


class UnresolvedError(MeshlogError):
    """A container cannot start yet, because its spec refers to a missing object, key or field."""

    def __init__(self, sentence: str, *, reason: str = "CreateContainerConfigError") -> None:
        super().__init__(f"devcluster/{reason}", sentence)
        self.reason = reason


def expand(text: str, known: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by the variables in `known`."""

    def replacement(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return known.get(match[2], match[0])

    return _REFERENCE.sub(replacement, text)


def command_line(container: Obj, environment: Mapping[str, str]) -> list[str]:
    """`command` and `args`, expanded. Raises `UnresolvedError` if there is no command: images are not run here."""
    command: list[str] = container.get("command") or []
    if not command:
        raise UnresolvedError(
            f'container "{container["name"]}" has no `command`: the devcluster runs commands, it does not pull images',
            reason="CreateContainerError",
        )
    return [expand(each, environment) for each in [*command, *(container.get("args") or [])]]


def resolve(container: Obj, pod: Obj, node: Mapping[str, str], lookup: Lookup) -> dict[str, str]:
    """The environment of a container; `node` has the variables of the node.

    Raises `UnresolvedError` that names the missing object or key.
    """
    known = dict(node)
    for source in container.get("envFrom") or []:
        prefix = source.get("prefix", "")
        for kind, resource in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
            reference = source.get(kind)
            if reference is not None:
                found = _find(lookup, resource, reference)
                known |= {prefix + name: value for name, value in _texts(resource, found).items()}
    for entry in container.get("env") or []:
        if "valueFrom" in entry:
            value = _value_from(entry["valueFrom"], container, pod, lookup)
            if value is not None:
                known[entry["name"]] = value
        else:
            known[entry["name"]] = expand(entry.get("value") or "", known)
    return known


def field(pod: Obj, path: str) -> str:
    """A field of the pod in the downward API. Raises `UnresolvedError` for an unsupported field."""
    metadata: Obj = pod["metadata"]
    status: Obj = pod.get("status") or {}
    subscript = _SUBSCRIPT.fullmatch(path)
    if subscript:
        return (metadata.get(subscript[1]) or {}).get(subscript[2], "")
    if path in {"metadata.labels", "metadata.annotations"}:
        entries: dict[str, str] = metadata.get(path.removeprefix("metadata.")) or {}
        return "\n".join(f"{name}={_quoted(value)}" for name, value in sorted(entries.items()))
    plain = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata.get("namespace", ""),
        "metadata.uid": metadata.get("uid", ""),
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName") or "default",
        "status.hostIP": status.get("hostIP", ""),
        "status.hostIPs": ",".join(each["ip"] for each in status.get("hostIPs") or []),
        "status.podIP": status.get("podIP", ""),
        "status.podIPs": ",".join(each["ip"] for each in status.get("podIPs") or []),
    }
    if path not in plain:
        raise UnresolvedError(f"the downward API has no field `{path}`")
    return plain[path]


def resource_amount(containers: Iterable[Obj], reference: Obj, default: str) -> str:
    """A `resourceFieldRef`: the container's limit or request in whole units of the divisor, rounded up."""
    scope, _, resource = reference["resource"].partition(".")
    wanted = reference.get("containerName") or default
    container = next((each for each in containers if each["name"] == wanted), None)
    if container is None or scope not in {"limits", "requests"}:
        raise UnresolvedError(f"there is no resource `{reference['resource']}` of a container `{wanted}`")
    declared = ((container.get("resources") or {}).get(scope) or {}).get(resource, "0")
    divisor = _quantity(str(reference.get("divisor") or "1")) or Decimal(1)
    return str(math.ceil(_quantity(str(declared)) / divisor))


def _quantity(text: str) -> Decimal:
    suffix = next((each for each in sorted(_SUFFIXES, key=len, reverse=True) if text.endswith(each)), "")
    try:
        return Decimal(text.removesuffix(suffix)) * _SUFFIXES.get(suffix, Decimal(1))
    except InvalidOperation:
        raise UnresolvedError(f"`{text}` is no quantity") from None


def _value_from(source: Obj, container: Obj, pod: Obj, lookup: Lookup) -> str | None:
    if "fieldRef" in source:
        return field(pod, source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        return resource_amount(pod["spec"]["containers"], source["resourceFieldRef"], container["name"])
    for kind, resource in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
        reference = source.get(kind)
        if reference is None:
            continue
        texts = _texts(resource, _find(lookup, resource, reference))
        if reference["key"] not in texts and not reference.get("optional"):
            raise UnresolvedError(f"couldn't find key {reference['key']} in {resource[:-1]} {reference['name']}")
        return texts.get(reference["key"])
    raise UnresolvedError(f"`valueFrom` of container {container['name']} names no source that is known")


def _find(lookup: Lookup, resource: str, reference: Obj) -> Obj | None:
    found = lookup(resource, reference["name"])
    if found is None and not reference.get("optional"):
        raise UnresolvedError(f'{resource[:-1]} "{reference["name"]}" not found')
    return found


def _texts(resource: str, found: Obj | None) -> dict[str, str]:
    return {name: value.decode(errors="surrogateescape") for name, value in contents(resource, found).items()}


def contents(resource: str, found: Obj | None) -> dict[str, bytes]:
    """The contents of a ConfigMap or Secret by key."""
    if found is None:
        return {}
    plain: dict[str, str] = found.get("data" if resource == "configmaps" else "stringData") or {}
    encoded: dict[str, str] = found.get("binaryData" if resource == "configmaps" else "data") or {}
    return {name: b64decode(value) for name, value in encoded.items()} | {
        name: value.encode() for name, value in plain.items()
    }


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
