"""The claim controller: binds each PersistentVolumeClaim to a directory of the node.

As on Kubernetes, a finalizer holds a deleted claim until its last pod has ended. Then the directory is deleted, and
after it the claim, so that a new claim of that name finds no old files. Claims end with the devcluster, as all objects
do. Claims of the mesh's own namespace are created again at the next start, and find their files.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Cluster, KubeApiError, Obj
from deploy.devcluster.object_fields import Key

RESOURCE = "persistentvolumeclaims"
PROTECTION = "kubernetes.io/pvc-protection"


class ClaimController:
    """Reconciles claims."""

    def __init__(self, cluster: Cluster, directory: Path, *, kept_namespace: str) -> None:
        """Directories are `directory`/NAMESPACE/NAME; new claims of `kept_namespace` keep existing files."""
        self._cluster = cluster
        self._directory = directory
        self._kept_namespace = kept_namespace

    async def reconcile(self, key: Key) -> float | None:
        """Bind a new claim, or release a deleted claim that no pod uses."""
        found = await self._cluster.get(RESOURCE, *key)
        if found is None:
            return None
        if object_fields.is_terminating(found):
            if not await self._used(key):
                await asyncio.to_thread(self._empty, key)
                left = [each for each in found["metadata"].get("finalizers") or [] if each != PROTECTION]
                await self._cluster.patch(RESOURCE, *key, {"metadata": {"finalizers": left}})
            return None
        if (found.get("status") or {}).get("phase") != "Bound":
            if key[0] != self._kept_namespace:
                await asyncio.to_thread(self._empty, key)
            await asyncio.to_thread((self._directory / key[0] / key[1]).mkdir, parents=True, exist_ok=True)
            await self._bind(found)
        return None

    async def _used(self, key: Key) -> bool:
        pods, _ = await self._cluster.list("pods", key[0])
        return any(key[1] in object_fields.claims_of(pod) for pod in pods if not object_fields.is_pod_finished(pod))

    async def _bind(self, found: Obj) -> None:
        key, spec = object_fields.key(found), found.get("spec") or {}
        if not spec.get("volumeName"):
            await self._cluster.patch(RESOURCE, *key, {"spec": {"volumeName": f"pvc-{object_fields.uid(found)}"}})
        status = {
            "phase": "Bound",
            "accessModes": spec.get("accessModes") or [],
            "capacity": (spec.get("resources") or {}).get("requests") or {},
        }
        await self._cluster.patch(RESOURCE, *key, {"status": status}, subresource="status")

    def _empty(self, key: Key) -> None:
        shutil.rmtree(self._directory / key[0] / key[1], ignore_errors=True)


async def ensure(cluster: Cluster, owner: Obj, ordinal_name: str) -> bool:
    """Create the missing claims of a StatefulSet's pod from its templates.

    Returns False while a claim of an earlier pod of that name is being deleted: the new pod must not use its files.
    """
    for template in owner["spec"].get("volumeClaimTemplates") or []:
        metadata: Obj = template.get("metadata") or {}
        name = f"{metadata['name']}-{ordinal_name}"
        there = await cluster.get(RESOURCE, object_fields.namespace(owner), name)
        if there is not None:
            if object_fields.is_terminating(there) or any(_is_pod(one, ordinal_name) for one in _references(there)):
                return False
            continue
        labels = {**(metadata.get("labels") or {}), **(owner["spec"]["selector"].get("matchLabels") or {})}
        claim: Obj = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": object_fields.namespace(owner), "labels": labels},
            "spec": template.get("spec") or {},
        }
        if metadata.get("annotations"):
            claim["metadata"]["annotations"] = metadata["annotations"]
        if references := _wanted(owner, None):
            claim["metadata"]["ownerReferences"] = references
        try:
            await cluster.create(RESOURCE, claim)
        except KubeApiError as error:
            if error.reason != "AlreadyExists":
                raise
    return True


async def own(cluster: Cluster, owner: Obj, pod: Obj, *, surplus: bool) -> None:
    """Set the owner references of the claims of a StatefulSet's pod by `persistentVolumeClaimRetentionPolicy`.

    `surplus`: the pod is beyond `spec.replicas`. A claim of another controller is not changed.
    """
    name = object_fields.name(pod)
    for template in owner["spec"].get("volumeClaimTemplates") or []:
        key = (object_fields.namespace(owner), f"{template['metadata']['name']}-{name}")
        claim = await cluster.get(RESOURCE, *key)
        if claim is None or object_fields.is_terminating(claim):
            continue
        before = _references(claim)
        others = [one for one in before if one["uid"] != object_fields.uid(owner) and not _is_pod(one, name)]
        if any(one.get("controller") for one in others):
            continue
        after = others + _wanted(owner, pod if surplus else None)
        if after != before:
            await cluster.patch(RESOURCE, *key, {"metadata": {"ownerReferences": after}})


def _wanted(owner: Obj, surplus: Obj | None) -> list[Obj]:
    policy: Obj = owner["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
    if surplus is not None and policy.get("whenScaled") == "Delete":
        return [
            object_fields.controller_reference({"apiVersion": "v1", "kind": "Pod", "metadata": surplus["metadata"]})
        ]
    if policy.get("whenDeleted") == "Delete":
        kind = {"apiVersion": "apps/v1", "kind": "StatefulSet"}
        return [object_fields.controller_reference({**kind, "metadata": owner["metadata"]})]
    return []


def _references(claim: Obj) -> list[Obj]:
    return claim["metadata"].get("ownerReferences") or []


def _is_pod(reference: Obj, name: str) -> bool:
    return (reference["kind"], reference["name"]) == ("Pod", name)
