"""Membership of namespaces, by Open Service Mesh's labels and annotations, so that labelled namespaces stay members."""

from __future__ import annotations

from typing import Any

from cli.kubernetes.api_client import Api
from shared.errors import BadInputError
from shared.membership import is_ignored, named_mesh, naming_selector
from shared.projected_objects import ANNOTATION_INJECTION, LABEL_IGNORE, LABEL_MONITORED_BY

_METRICS = "openservicemesh.io/metrics"
_MERGE = "application/merge-patch+json"


async def add(api: Api, name: str, mesh_name: str, *, injection: bool) -> None:
    """Make a namespace a member; raises `BadInputError` if it is not there, ignored, or another mesh's."""
    labels = (await _namespace(api, name)).get("labels") or {}
    if is_ignored(labels):
        raise BadInputError("namespace/ignored", f"carries the label {LABEL_IGNORE}: take it off first", about=name)
    if (named := named_mesh(labels)) not in (None, mesh_name):
        raise BadInputError("namespace/other", f"is a member of {named!r} already", about=name)
    injected = "enabled" if injection else "disabled"
    await _patch(api, name, {LABEL_MONITORED_BY: mesh_name}, {ANNOTATION_INJECTION: injected})


async def remove(api: Api, name: str, mesh_name: str) -> None:
    """Remove a namespace and all its member metadata; raises `BadInputError` if it is no member of this mesh."""
    labels = (await _namespace(api, name)).get("labels") or {}
    if named_mesh(labels) != mesh_name:
        raise BadInputError("namespace/none", f"is no member of {mesh_name!r}", about=name)
    gone = {LABEL_MONITORED_BY: None, LABEL_IGNORE: None}
    await _patch(api, name, gone, {ANNOTATION_INJECTION: None, _METRICS: None})


async def ignore(api: Api, name: str) -> None:
    """Exclude a namespace, whatever its other labels."""
    await _namespace(api, name)
    await _patch(api, name, {LABEL_IGNORE: "true"}, {})


async def members(api: Api, mesh_name: str) -> list[dict[str, str]]:
    """Member namespaces, of all meshes if none is named: name, mesh, injection."""
    listing = await api.get("/api/v1/namespaces", params={"labelSelector": naming_selector(mesh_name)})
    return [
        {
            "namespace": one["metadata"]["name"],
            "mesh": named_mesh(one["metadata"]["labels"]) or "",
            "injection": (one["metadata"].get("annotations") or {}).get(ANNOTATION_INJECTION, "-"),
            "ignored": "yes" if is_ignored(one["metadata"]["labels"]) else "no",
        }
        for one in listing["items"]
    ]


async def _namespace(api: Api, name: str) -> dict[str, Any]:
    status, answer = await api.request("GET", f"/api/v1/namespaces/{name}")
    if status == 404:
        raise BadInputError("namespace/missing", "is no namespace of this cluster", about=name)
    if status != 200:
        raise BadInputError("namespace/refused", answer["message"], about=name)
    return answer["metadata"]


async def _patch(api: Api, name: str, labels: dict[str, Any], annotations: dict[str, Any]) -> None:
    patch = {"metadata": {"labels": labels, "annotations": annotations}}
    status, answer = await api.request("PATCH", f"/api/v1/namespaces/{name}", body=patch, content_type=_MERGE)
    if status != 200:
        raise BadInputError("namespace/refused", answer["message"], about=name)
