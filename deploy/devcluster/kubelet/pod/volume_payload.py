"""Computes the files of a configuration volume: path → content and mode. Pure.

ConfigMaps, Secrets, downward API and projected volumes all become one such mapping, which `atomic_directory.py` writes
in one step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.kubelet.container import environment
from deploy.devcluster.kubelet.container.environment import Lookup, UnresolvedError


class VolumeFile(msgspec.Struct, frozen=True):
    """One file of a volume."""

    content: bytes
    mode: int


class TokenProjection(msgspec.Struct, frozen=True):
    """A service-account token in a projected volume."""

    path: str
    audience: str
    """Empty for the audience of the API server."""
    expiration_seconds: int
    mode: int


Files = Mapping[str, VolumeFile]

_DEFAULT_MODE = 0o644
_TOKEN_MODE = 0o600
_WAITING = "ContainerCreating"


def files_of(volume: Obj, pod: Obj, lookup: Lookup) -> dict[str, VolumeFile] | None:
    """The files of a volume without its tokens. Returns None if it is no configuration volume.

    Raises `UnresolvedError` if a required object or key is missing.
    """
    if "configMap" in volume:
        source: Obj = volume["configMap"]
        return _keys("configmaps", source, _mode(source), lookup)
    if "secret" in volume:
        source = volume["secret"]
        return _keys("secrets", {"name": source.get("secretName", "")} | source, _mode(source), lookup)
    if "downwardAPI" in volume:
        return _downward(volume["downwardAPI"].get("items") or [], pod, _mode(volume["downwardAPI"]))
    if "projected" in volume:
        files: dict[str, VolumeFile] = {}
        mode = _mode(volume["projected"])
        for source in volume["projected"].get("sources") or []:
            if "configMap" in source:
                files |= _keys("configmaps", source["configMap"], mode, lookup)
            if "secret" in source:
                files |= _keys("secrets", source["secret"], mode, lookup)
            if "downwardAPI" in source:
                files |= _downward(source["downwardAPI"].get("items") or [], pod, mode)
        return files
    return None


def tokens_of(volume: Obj) -> list[TokenProjection]:
    """The tokens in a volume."""
    return [
        TokenProjection(
            path=source["serviceAccountToken"]["path"],
            audience=source["serviceAccountToken"].get("audience") or "",
            expiration_seconds=source["serviceAccountToken"].get("expirationSeconds") or 3600,
            mode=_TOKEN_MODE,
        )
        for source in (volume.get("projected") or {}).get("sources") or []
        if "serviceAccountToken" in source
    ]


def references_of(volume: Obj) -> set[tuple[str, str]]:
    """Objects that a volume depends on: (`configmaps`, `secrets` or `persistentvolumeclaims`, name)."""
    found: set[tuple[str, str]] = set()
    if "persistentVolumeClaim" in volume:
        found.add(("persistentvolumeclaims", volume["persistentVolumeClaim"]["claimName"]))
    for source in [volume, *((volume.get("projected") or {}).get("sources") or [])]:
        if "configMap" in source:
            found.add(("configmaps", source["configMap"].get("name", "")))
        if "secret" in source:
            found.add(("secrets", source["secret"].get("secretName") or source["secret"].get("name", "")))
    return found


def api_access(root_ca: str) -> Obj:
    """The volume with token, CA and namespace for access to the API, as Kubernetes' admission adds it to pods."""
    return {
        "name": "kube-api-access",
        "projected": {
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": root_ca, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            ]
        },
    }


def _keys(resource: str, source: Obj, mode: int, lookup: Lookup) -> dict[str, VolumeFile]:
    optional = bool(source.get("optional"))
    found = lookup(resource, source["name"])
    if found is None and not optional:
        raise UnresolvedError(f'{resource[:-1]} "{source["name"]}" not found', reason=_WAITING)
    held = environment.contents(resource, found)
    if not source.get("items"):
        return {key: VolumeFile(content, mode) for key, content in held.items()}
    files: dict[str, VolumeFile] = {}
    for item in source["items"]:
        if item["key"] in held:
            files[item["path"]] = VolumeFile(held[item["key"]], item.get("mode") or mode)
        elif not optional:
            missing = f'{resource[:-1]} "{source["name"]}" references non-existent key: {item["key"]}'
            raise UnresolvedError(missing, reason=_WAITING)
    return files


def _downward(items: Iterable[Obj], pod: Obj, mode: int) -> dict[str, VolumeFile]:
    files: dict[str, VolumeFile] = {}
    for item in items:
        if "fieldRef" in item:
            text = environment.field(pod, item["fieldRef"]["fieldPath"])
        else:
            text = environment.resource_amount(pod["spec"]["containers"], item["resourceFieldRef"], "")
        files[item["path"]] = VolumeFile(text.encode(), item.get("mode") or mode)
    return files


def _mode(source: Obj) -> int:
    return source.get("defaultMode") or _DEFAULT_MODE
