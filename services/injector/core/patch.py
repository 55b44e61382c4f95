"""Adds the sidecar to a pod, and computes the JSON patch (RFC 6902) that does so.

Mutating twice gives the same as mutating once: an existing sidecar is removed first (`without_sidecar`), and its
annotation restores the probes. So the result is also right for a pod that another webhook changed in between, and for a
copy of a running pod (`kubectl debug --copy-to`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from services.injector.core import privileges, sidecar_containers
from services.injector.core import probes as probing
from services.injector.core.configuration import Installation
from shared.errors import BadInputError
from shared.kubernetes.reserved_ports import LISTENING, is_proxys, proxys_own
from shared.meshconfig.pods import MeshSpec
from shared.projected_objects import ANNOTATION_SIDECAR

Json = dict[str, Any]

MAX_CONTAINERS = 256
"""Containers of a pod, init containers counted."""

_OURS = frozenset({sidecar_containers.INIT_CONTAINER, sidecar_containers.PROXY_CONTAINER})
_OUR_ANNOTATIONS = frozenset(
    {
        ANNOTATION_SIDECAR,
        sidecar_containers.ANNOTATION_TOKEN_SOURCE,
        sidecar_containers.ANNOTATION_TRUST_SOURCE,
        sidecar_containers.ANNOTATION_PROBES,
    }
)


def with_sidecar(pod: Mapping[str, Any], installation: Installation, mesh: MeshSpec) -> Json:
    """Return the pod with its sidecar; `pod` is not changed. Raises `BadInputError`."""
    bare = without_sidecar(pod)
    spec: Json = bare["spec"]
    own: list[Json] = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    _refuse_too_many(own)
    _refuse_collisions(own, spec)
    annotations: dict[str, str] = dict(bare["metadata"].get("annotations") or {})
    rewritten: dict[str, Json] = {}
    found: list[probing.Probe] = []
    for container in own:
        rewritten[container["name"]], some = probing.rewrite(container)
        found += some
    init_containers = [rewritten[each["name"]] for each in spec.get("initContainers") or []]
    containers = [rewritten[each["name"]] for each in spec.get("containers") or []]
    redirect = sidecar_containers.init(installation, mesh, annotations, found)
    proxy = sidecar_containers.proxy(installation, mesh, found)
    if installation.native_sidecars:
        spec["initContainers"] = [redirect, proxy, *init_containers]
        spec["containers"] = containers
    else:
        # Last of the init containers: the others need the plain network, because the proxy does not run yet.
        spec["initContainers"] = [*init_containers, redirect]
        spec["containers"] = [proxy, *containers]
    secrets: list[Any] = spec.get("imagePullSecrets") or []
    wanted = {"name": installation.pull_secret}
    if installation.pull_secret and wanted not in secrets:
        spec["imagePullSecrets"] = [*secrets, wanted]
    spec["volumes"] = [*(spec.get("volumes") or []), sidecar_containers.volume(installation)]
    annotations |= {ANNOTATION_SIDECAR: installation.build, **sidecar_containers.source_annotations()}
    if found:
        kept = probing.originals(own, found)
        annotations[sidecar_containers.ANNOTATION_PROBES] = json.dumps(kept, separators=(",", ":"), sort_keys=True)
    bare["metadata"]["annotations"] = annotations
    return bare


def warnings(pod: Mapping[str, Any], installation: Installation) -> list[str]:
    """Return warnings for the pod's author. Raises `BadInputError` if the pod is refused."""
    spec: Json = without_sidecar(pod)["spec"]
    found = privileges.check(spec, installation)
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        found += probing.warnings(container, probing.rewrite(container)[1])
        found += [
            f"container {container.get('name')}: port {port} is kept for the proxy ({proxys_own()}), "
            "a later version of which may listen there"
            for port in _ports(container)
            if is_proxys(port)
        ]
    return found


def unclaimed(pod: Mapping[str, Any]) -> Json | None:
    """Return a pod without the annotation of a sidecar that it does not have; `None` if it has no such annotation."""
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    if ANNOTATION_SIDECAR not in annotations:
        return None
    rest = {key: value for key, value in annotations.items() if key != ANNOTATION_SIDECAR}
    return {**pod, "metadata": {**pod["metadata"], "annotations": rest}}


def without_sidecar(pod: Mapping[str, Any]) -> Json:
    """Return the pod as its author wrote it: a copy that shares the parts that the injector does not change."""
    bare: Json = {**pod, "metadata": dict(pod.get("metadata") or {}), "spec": dict(pod.get("spec") or {})}
    annotations: dict[str, str] = bare["metadata"].get("annotations") or {}
    if ANNOTATION_SIDECAR not in annotations:
        return bare
    kept = _kept_probes(annotations.get(sidecar_containers.ANNOTATION_PROBES, ""))
    rest = {key: value for key, value in annotations.items() if key not in _OUR_ANNOTATIONS}
    bare["metadata"]["annotations"] = rest
    spec: Json = bare["spec"]
    for field in ("initContainers", "containers"):
        if spec.get(field):
            spec[field] = [
                probing.restore(each, kept.get(each.get("name", ""), {}))
                for each in spec[field]
                if each.get("name") not in _OURS
            ]
    if spec.get("volumes"):
        spec["volumes"] = [each for each in spec["volumes"] if each.get("name") != sidecar_containers.VOLUME]
    return bare


def json_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Json]:
    """Return the operations that turn one pod into another. Compares only what an injection changes."""
    operations: list[Json] = []
    fields = ("volumes", "initContainers", "containers", "imagePullSecrets")
    places = (("metadata", "annotations"), *(("spec", field) for field in fields))
    for part, field in places:
        old, new = (before.get(part) or {}).get(field), (after.get(part) or {}).get(field)
        if new == old:
            continue
        # Replacing a whole list is safe: the API server applies the patch to the very object that it sent.
        operations.append({"op": "add" if old is None else "replace", "path": f"/{part}/{field}", "value": new})
    if operations and "metadata" not in before:
        operations.insert(0, {"op": "add", "path": "/metadata", "value": {}})
    return operations


def _refuse_too_many(containers: list[Json]) -> None:
    if len(containers) > MAX_CONTAINERS:
        raise BadInputError(
            "inject/containers",
            f"has {len(containers)} containers; at most {MAX_CONTAINERS} can be given a sidecar",
            about="the pod",
        )


def _ports(container: Mapping[str, Any]) -> list[int]:
    """Return the TCP ports that a container declares."""
    listed = container.get("ports") or []
    return [
        each["containerPort"]
        for each in listed
        if each.get("protocol") in (None, "", "TCP") and "containerPort" in each
    ]


def _refuse_collisions(containers: list[Json], spec: Mapping[str, Any]) -> None:
    for container in containers:
        for port in _ports(container):
            if port in LISTENING:
                raise BadInputError(
                    "inject/container-port",
                    f"container {container.get('name')!r} has port {port}, where its proxy listens: one of the two "
                    "could not start; use another port",
                    about="the pod",
                )
        if container.get("name") in _OURS:
            raise BadInputError(
                "inject/container-name",
                f"container {container['name']!r} has the name of one that the mesh adds; rename it",
                about="the pod",
            )
    if any(each.get("name") == sidecar_containers.VOLUME for each in spec.get("volumes") or []):
        raise BadInputError(
            "inject/volume-name",
            f"volume {sidecar_containers.VOLUME!r} has the name of the mesh's; rename it",
            about="the pod",
        )


def _kept_probes(annotation: str) -> dict[str, Json]:
    """Return the probes in the annotation; empty if it is unreadable, since a pod's author can write anything there."""
    try:
        kept = json.loads(annotation) if annotation else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(kept, dict):
        return {}
    return {key: cast("Json", value) for key, value in cast("Json", kept).items() if isinstance(value, dict)}
