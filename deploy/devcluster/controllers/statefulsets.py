"""The StatefulSet controller: creates, replaces and removes pods with stable names, in order or in parallel.

Unlike Kubernetes it keeps no ControllerRevisions: with an update partition, a lost pod below the partition is created
from the new template.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Cluster, Obj
from deploy.devcluster.controllers import volume_claims
from deploy.devcluster.object_fields import Key

_REVISION = "controller-revision-hash"


class StatefulSetController:
    """Reconciles StatefulSets."""

    def __init__(self, cluster: Cluster, *, now: Callable[[], float] = time.time) -> None:
        self._cluster = cluster
        self._now = now

    async def reconcile(self, key: Key) -> float | None:
        """Take the next step that the order allows, then write the status."""
        found = await self._cluster.get("statefulsets.apps", *key)
        if found is None or object_fields.is_terminating(found):
            return None
        listed, _ = await self._cluster.list("pods", key[0])
        owned = {
            ordinal: pod
            for pod in listed
            if object_fields.is_controlled_by(pod, found) and (ordinal := _ordinal(found, pod)) is not None
        }
        revision = f"{key[1]}-{object_fields.safe_hash(found['spec']['template'], 10)}"
        await self._step(found, owned, revision)
        return await self._report(found, owned, revision)

    async def _step(self, found: Obj, owned: dict[int, Obj], revision: str) -> None:
        spec: Obj = found["spec"]
        start: int = (spec.get("ordinals") or {}).get("start", 0)
        ordinals = range(start, start + spec.get("replicas", 1))
        for ordinal, pod in owned.items():
            await volume_claims.own(self._cluster, found, pod, surplus=ordinal not in ordinals)
        parallel = spec.get("podManagementPolicy") == "Parallel"
        filled = await self._fill(found, owned, ordinals, revision)
        if not (filled or parallel):
            return
        trimmed = await self._trim(owned, ordinals, at_once=parallel)
        strategy: Obj = spec.get("updateStrategy") or {}
        if strategy.get("type") == "OnDelete" or not (trimmed or parallel):
            return
        partition: int = (strategy.get("rollingUpdate") or {}).get("partition", 0)
        await self._renew(found, owned, ordinals[partition:], revision)

    async def _fill(self, found: Obj, owned: dict[int, Obj], ordinals: range, revision: str) -> bool:
        """Create missing pods. In order, each pod waits until those before it are available."""
        settled = True
        for ordinal in ordinals:
            pod = owned.get(ordinal)
            if pod is None:
                if not await volume_claims.ensure(self._cluster, found, f"{object_fields.name(found)}-{ordinal}"):
                    return False  # reconciled again when the claim is removed
                owned[ordinal] = await self._cluster.create("pods", _pod_of(found, ordinal, revision))
            elif object_fields.is_pod_finished(pod) and not object_fields.is_terminating(pod):
                await self._cluster.delete("pods", *object_fields.key(pod))
            elif self._is_healthy(found, pod):
                continue
            settled = False
            if found["spec"].get("podManagementPolicy") != "Parallel":
                return False
        return settled

    async def _trim(self, owned: dict[int, Obj], ordinals: range, *, at_once: bool) -> bool:
        """Delete pods beyond `spec.replicas`, the highest ordinal first."""
        surplus = sorted(set(owned) - set(ordinals), reverse=True)
        for ordinal in surplus:
            if not object_fields.is_terminating(owned[ordinal]):
                await self._cluster.delete("pods", *object_fields.key(owned[ordinal]))
            if not at_once:
                return False
        return not surplus

    async def _renew(self, found: Obj, owned: dict[int, Obj], ordinals: range, revision: str) -> None:
        """Delete pods of an older template, the highest ordinal first, one at a time."""
        for ordinal in reversed(ordinals):
            pod = owned[ordinal]
            if object_fields.labels(pod).get(_REVISION) != revision and not object_fields.is_terminating(pod):
                await self._cluster.delete("pods", *object_fields.key(pod))
                return
            if not self._is_healthy(found, pod):
                return

    def _is_healthy(self, found: Obj, pod: Obj) -> bool:
        return object_fields.available_in(pod, found["spec"].get("minReadySeconds", 0), self._now()) == 0.0

    async def _report(self, found: Obj, owned: dict[int, Obj], revision: str) -> float | None:
        now = self._now()
        minimum = found["spec"].get("minReadySeconds", 0)
        waits = [wait for pod in owned.values() if (wait := object_fields.available_in(pod, minimum, now)) is not None]
        updated = sum(object_fields.labels(pod).get(_REVISION) == revision for pod in owned.values())
        before: Obj = found.get("status") or {}
        current: str = before.get("currentRevision") or revision
        wanted: int = found["spec"].get("replicas", 1)
        if updated == len(owned) == wanted == waits.count(0.0):
            current = revision
        status: Obj = {
            "observedGeneration": found["metadata"].get("generation", 0),
            "replicas": len(owned),
            "readyReplicas": len(waits),
            "availableReplicas": waits.count(0.0),
            "currentReplicas": sum(object_fields.labels(pod).get(_REVISION) == current for pod in owned.values()),
            "updatedReplicas": updated,
            "currentRevision": current,
            "updateRevision": revision,
            "collisionCount": 0,
        }
        await object_fields.write_status(self._cluster, "statefulsets.apps", found, status)
        return min((wait for wait in waits if wait > 0), default=None)


def _ordinal(found: Obj, pod: Obj) -> int | None:
    prefix, _, ordinal = object_fields.name(pod).rpartition("-")
    return int(ordinal) if prefix == object_fields.name(found) and ordinal.isdecimal() else None


def _pod_of(found: Obj, ordinal: int, revision: str) -> Obj:
    template: Obj = msgspec.json.decode(msgspec.json.encode(found["spec"]["template"]))
    name = f"{object_fields.name(found)}-{ordinal}"
    metadata: Obj = template.get("metadata") or {}
    metadata.pop("creationTimestamp", None)
    metadata |= {
        "name": name,
        "namespace": object_fields.namespace(found),
        "ownerReferences": [object_fields.controller_reference(found)],
        "labels": (metadata.get("labels") or {})
        | {
            _REVISION: revision,
            "statefulset.kubernetes.io/pod-name": name,
            "apps.kubernetes.io/pod-index": str(ordinal),
        },
    }
    spec: Obj = template["spec"]
    spec["hostname"] = name
    if found["spec"].get("serviceName"):
        spec["subdomain"] = found["spec"]["serviceName"]
    claimed = [claim["metadata"]["name"] for claim in found["spec"].get("volumeClaimTemplates") or []]
    if claimed:
        others = [volume for volume in spec.get("volumes") or [] if volume["name"] not in claimed]
        spec["volumes"] = others + [
            {"name": claim, "persistentVolumeClaim": {"claimName": f"{claim}-{name}"}} for claim in claimed
        ]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
