"""PersistentVolumeClaim → a directory of the node: bound at once, kept while a pod uses it, gone with the claim.

The finalizer that Kubernetes gives each claim holds a deleted one until its last pod has ended; then the directory
goes, and the claim after it, so that a claim of the same name never meets another's files. Claims end with the
devcluster, as all objects do; those of the mesh's own namespace are made again by the next one, and find their files.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from deploy.devcluster import objects
from deploy.devcluster.cluster import ApiError, Cluster, Obj
from deploy.devcluster.objects import Key

RESOURCE = "persistentvolumeclaims"
PROTECTION = "kubernetes.io/pvc-protection"


class Claims:
    """The controller; `reconcile` is one step for one claim."""

    def __init__(self, cluster: Cluster, directory: Path, *, kept_namespace: str) -> None:
        """Claims' directories lie at `directory`/NAMESPACE/NAME; in `kept_namespace` a new claim may find its files."""
        self._cluster = cluster
        self._directory = directory
        self._kept_namespace = kept_namespace

    async def reconcile(self, key: Key) -> float | None:
        """Bind a new claim, or let go of a deleted one that no pod uses any more."""
        found = await self._cluster.get(RESOURCE, *key)
        if found is None:
            return None
        if objects.is_terminating(found):
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
        return any(key[1] in objects.claims_of(pod) for pod in pods if not objects.is_pod_finished(pod))

    async def _bind(self, found: Obj) -> None:
        key, spec = objects.key(found), found.get("spec") or {}
        if not spec.get("volumeName"):
            await self._cluster.patch(RESOURCE, *key, {"spec": {"volumeName": f"pvc-{objects.uid(found)}"}})
        status = {
            "phase": "Bound",
            "accessModes": spec.get("accessModes") or [],
            "capacity": (spec.get("resources") or {}).get("requests") or {},
        }
        await self._cluster.patch(RESOURCE, *key, {"status": status}, subresource="status")

    def _empty(self, key: Key) -> None:
        shutil.rmtree(self._directory / key[0] / key[1], ignore_errors=True)


async def ensure(cluster: Cluster, owner: Obj, ordinal_name: str) -> None:
    """Make the claims of a StatefulSet's pod that are not there, from its templates."""
    for template in owner["spec"].get("volumeClaimTemplates") or []:
        metadata: Obj = template.get("metadata") or {}
        name = f"{metadata['name']}-{ordinal_name}"
        if await cluster.get(RESOURCE, objects.namespace(owner), name) is not None:
            continue
        labels = {**(metadata.get("labels") or {}), **(owner["spec"]["selector"].get("matchLabels") or {})}
        claim: Obj = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": objects.namespace(owner), "labels": labels},
            "spec": template.get("spec") or {},
        }
        if metadata.get("annotations"):
            claim["metadata"]["annotations"] = metadata["annotations"]
        try:
            await cluster.create(RESOURCE, claim)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
