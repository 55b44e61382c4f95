"""The ReplicaSet controller: creates and deletes pods until their number is `spec.replicas`.

It reads pods from the API, not from the cache: a cached list may lack a pod that was just created, and another one
would be created.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Cluster, KubeApiError, Obj
from deploy.devcluster.object_fields import Key


class ReplicaSetController:
    """Reconciles ReplicaSets."""

    def __init__(self, cluster: Cluster, *, now: Callable[[], float] = time.time) -> None:
        self._cluster = cluster
        self._now = now

    async def reconcile(self, key: Key) -> float | None:
        """Create missing pods or delete surplus ones, then write the status."""
        found = await self._cluster.get("replicasets.apps", *key)
        if found is None or object_fields.is_terminating(found):
            return None
        active = [pod for pod in await self._claimed(found) if object_fields.is_pod_active(pod)]
        wanted: int = found["spec"].get("replicas", 1)
        failure = ""
        if len(active) < wanted:
            created, failure = await self._create(found, wanted - len(active))
            active += created
        elif len(active) > wanted:
            surplus = sorted(active, key=_keep_order)[wanted:]
            await asyncio.gather(*(self._cluster.delete("pods", *object_fields.key(pod)) for pod in surplus))
            gone = {object_fields.uid(pod) for pod in surplus}
            active = [pod for pod in active if object_fields.uid(pod) not in gone]
        soonest = await self._report(found, active, failure)
        if failure:
            raise KubeApiError(500, "FailedCreate", failure)
        return soonest

    async def _claimed(self, found: Obj) -> list[Obj]:
        """The pods of the set. Adopts orphans that it selects, releases own pods that it no longer selects."""
        pods, _ = await self._cluster.list("pods", object_fields.namespace(found))
        claimed: list[Obj] = []
        for pod in pods:
            selected = object_fields.selects(found["spec"]["selector"], object_fields.labels(pod))
            if object_fields.is_controlled_by(pod, found):
                if selected or object_fields.is_terminating(pod):
                    claimed.append(pod)
                else:
                    others = [
                        ref for ref in pod["metadata"]["ownerReferences"] if ref["uid"] != object_fields.uid(found)
                    ]
                    await self._own(pod, others)
            elif selected and object_fields.controller_of(pod) is None and object_fields.is_pod_active(pod):
                own = [*(pod["metadata"].get("ownerReferences") or []), object_fields.controller_reference(found)]
                claimed.append(await self._own(pod, own))
        return claimed

    async def _own(self, pod: Obj, references: list[Obj]) -> Obj:
        return await self._cluster.patch("pods", *object_fields.key(pod), {"metadata": {"ownerReferences": references}})

    async def _create(self, found: Obj, count: int) -> tuple[list[Obj], str]:
        """Create one pod first: if admission rejects it, it would reject the others as well."""
        created: list[Obj] = []
        for size in (1, count - 1):
            answers = await asyncio.gather(
                *(self._cluster.create("pods", _pod_of(found)) for _ in range(size)), return_exceptions=True
            )
            for answer in answers:
                if isinstance(answer, KubeApiError):
                    return created, str(answer)
                if isinstance(answer, BaseException):
                    raise answer
                created.append(answer)
        return created, ""

    async def _report(self, found: Obj, active: Sequence[Obj], failure: str) -> float | None:
        now = self._now()
        minimum = found["spec"].get("minReadySeconds", 0)
        waits = [wait for pod in active if (wait := object_fields.available_in(pod, minimum, now)) is not None]
        before: Obj = found.get("status") or {}
        conditions: list[Obj] = before.get("conditions") or []
        if failure:
            conditions = object_fields.with_condition(
                conditions, "ReplicaFailure", "True", now=now, reason="FailedCreate", message=failure
            )
        else:
            conditions = [each for each in conditions if each["type"] != "ReplicaFailure"]
        template_labels = (found["spec"]["template"].get("metadata") or {}).get("labels") or {}
        status: Obj = {
            "replicas": len(active),
            "fullyLabeledReplicas": sum(template_labels.items() <= object_fields.labels(pod).items() for pod in active),
            "readyReplicas": len(waits),
            "availableReplicas": waits.count(0.0),
            "observedGeneration": found["metadata"].get("generation", 0),
        }
        if conditions:
            status["conditions"] = conditions
        await object_fields.write_status(self._cluster, "replicasets.apps", found, status)
        return min((wait for wait in waits if wait > 0), default=None)


def _pod_of(found: Obj) -> Obj:
    template: Obj = msgspec.json.decode(msgspec.json.encode(found["spec"]["template"]))
    metadata: Obj = template.get("metadata") or {}
    metadata.pop("creationTimestamp", None)
    metadata |= {
        "generateName": f"{object_fields.name(found)}-",
        "namespace": object_fields.namespace(found),
        "ownerReferences": [object_fields.controller_reference(found)],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def _keep_order(pod: Obj) -> tuple[bool, bool, str, str]:
    """Sort key of pods to keep: ready ones first, then running ones, then older ones."""
    return (
        not object_fields.is_pod_ready(pod),
        (pod.get("status") or {}).get("phase") != "Running",
        pod["metadata"].get("creationTimestamp", ""),
        object_fields.name(pod),
    )
