"""The Deployment controller: keeps one ReplicaSet per pod template, as Kubernetes does.

Names, labels, annotations and conditions are those of Kubernetes, so that `kubectl rollout status|history|undo` and
`kubectl wait --for=condition=Available` work. `rollout_bounds.py` computes the sizes of the sets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Cluster, Obj
from deploy.devcluster.controllers import rollout_bounds
from deploy.devcluster.object_fields import Key

_SETS = "replicasets.apps"
_HASH = "pod-template-hash"
_REVISION = "deployment.kubernetes.io/revision"


class DeploymentController:
    """Reconciles Deployments."""

    def __init__(self, cluster: Cluster, *, now: Callable[[], float] = time.time) -> None:
        self._cluster = cluster
        self._now = now

    async def reconcile(self, key: Key) -> float | None:
        """Advance the rollout of one Deployment by a step, and write its status."""
        found = await self._cluster.get("deployments.apps", *key)
        if found is None or object_fields.is_terminating(found):
            return None
        listed, _ = await self._cluster.list(_SETS, key[0])
        owned = sorted((each for each in listed if object_fields.is_controlled_by(each, found)), key=_revision)
        template_hash = object_fields.safe_hash(found["spec"]["template"], 10)
        new = next((each for each in owned if object_fields.labels(each).get(_HASH) == template_hash), None)
        old = [each for each in owned if each is not new]
        if not found["spec"].get("paused"):
            new = await self._newest(found, new, old, template_hash)
        sizes = self._sizes(found, new, old)
        if _is_recreate(found) and sizes and await self._any_pod_of(old):
            sizes = {name: size for name, size in sizes.items() if size == 0}
        for each in [*old, *([new] if new else [])]:
            wanted = sizes.get(object_fields.name(each))
            if wanted is not None and wanted != _wanted(each):
                each["spec"]["replicas"] = wanted
                await self._cluster.patch(_SETS, *object_fields.key(each), {"spec": {"replicas": wanted}})
        pause = await self._report(found, new, old)
        await self._forget(found, old)
        return pause

    async def _newest(self, found: Obj, new: Obj | None, old: Sequence[Obj], template_hash: str) -> Obj:
        """Returns the set of the current template with the highest revision; creates it if missing."""
        revision = str(max((_revision(each) for each in old), default=0) + 1)
        if new is None:
            new = await self._cluster.create(_SETS, _set_of(found, template_hash, revision))
        elif _revision(new) < int(revision):
            new = await self._cluster.patch(
                _SETS, *object_fields.key(new), {"metadata": {"annotations": {_REVISION: revision}}}
            )
        newest = object_fields.annotations(new).get(_REVISION, "1")
        if object_fields.annotations(found).get(_REVISION) != newest:
            merge = {"metadata": {"annotations": {_REVISION: newest}}}
            await self._cluster.patch("deployments.apps", *object_fields.key(found), merge)
        return new

    async def _any_pod_of(self, sets: Sequence[Obj]) -> bool:
        """True if a pod of these sets still runs, including terminating ones."""
        if not sets:
            return False
        pods, _ = await self._cluster.list("pods", object_fields.namespace(sets[0]))
        owners = {object_fields.uid(each) for each in sets}
        return any(
            owner["uid"] in owners and not object_fields.is_pod_finished(pod)
            for pod in pods
            if (owner := object_fields.controller_of(pod)) is not None
        )

    def _sizes(self, found: Obj, new: Obj | None, old: Sequence[Obj]) -> dict[str, int]:
        replicas = _wanted(found)
        populated = [each for each in old if _wanted(each) > 0 or _present(each) > 0]
        if found["spec"].get("paused"):
            active = [*populated, *([new] if new and _wanted(new) else [])]
            return {object_fields.name(active[-1]): replicas} if len(active) == 1 else {}
        assert new is not None
        if _is_recreate(found):
            sizes = {object_fields.name(each): 0 for each in populated}
            return sizes or {object_fields.name(new): replicas}
        return rollout_bounds.next_sizes(replicas, _bounds(found), _size(new), [_size(each) for each in populated])

    async def _report(self, found: Obj, new: Obj | None, old: Sequence[Obj]) -> float | None:
        now = self._now()
        before: Obj = found.get("status") or {}
        sets = [*old, *([new] if new else [])]
        replicas, available = sum(map(_present, sets)), sum(map(_available, sets))
        status: Obj = {
            "observedGeneration": found["metadata"].get("generation", 0),
            "replicas": replicas,
            "updatedReplicas": _present(new) if new else 0,
            "readyReplicas": sum((each.get("status") or {}).get("readyReplicas", 0) for each in sets),
            "availableReplicas": available,
            "unavailableReplicas": max(0, _wanted(found) - available),
        }
        progress, pause = self._progress(found, status, now)
        conditions = _with_availability(found, before.get("conditions") or [], available, now)
        failure = object_fields.condition(new, "ReplicaFailure") if new else None
        conditions = [each for each in conditions if each["type"] != "ReplicaFailure"]
        if failure is not None:
            conditions.append(failure)
        conditions = object_fields.with_condition(conditions, "Progressing", now=now, **progress)
        for each in conditions:
            moved = each["type"] == "Progressing" and _advanced(before, status)
            each["lastUpdateTime"] = _update_time(found, each, now, moved=moved)
        status["conditions"] = conditions
        await object_fields.write_status(self._cluster, "deployments.apps", found, status)
        return pause

    def _progress(self, found: Obj, status: Obj, now: float) -> tuple[dict[str, str], float | None]:
        """The condition `Progressing`, and the seconds until its deadline is checked, if any."""
        wanted = _wanted(found)
        described = f'Deployment "{object_fields.name(found)}"'
        if status["updatedReplicas"] == status["replicas"] == status["availableReplicas"] == wanted:
            done = f"{described} has successfully progressed."
            return {"status": "True", "reason": "NewReplicaSetAvailable", "message": done}, None
        deadline = found["spec"].get("progressDeadlineSeconds", 600)
        earlier = object_fields.condition(found, "Progressing")
        if earlier is not None and earlier["reason"] in {"ReplicaSetUpdated", "ProgressDeadlineExceeded"}:
            advanced = _advanced(found.get("status") or {}, status)
            left = object_fields.parse_timestamp(earlier["lastUpdateTime"]) + deadline - now
            if left <= 0 and not advanced and not found["spec"].get("paused"):
                late = f"{described} has timed out progressing."
                return {"status": "False", "reason": "ProgressDeadlineExceeded", "message": late}, None
            deadline = deadline if advanced else left
        going = f"{described} is progressing."
        return {"status": "True", "reason": "ReplicaSetUpdated", "message": going}, deadline + 1

    async def _forget(self, found: Obj, old: Sequence[Obj]) -> None:
        """Delete empty sets beyond `revisionHistoryLimit`."""
        empty = [each for each in old if _wanted(each) == 0 and _present(each) == 0]
        surplus = len(empty) - found["spec"].get("revisionHistoryLimit", 10)
        for each in empty[: max(0, surplus)]:
            await self._cluster.delete(_SETS, *object_fields.key(each))


def _with_availability(found: Obj, conditions: Sequence[Obj], available: int, now: float) -> list[Obj]:
    """The conditions with `Available`: whether as many pods are available as a rolling update must leave."""
    enough = available >= _wanted(found) - (0 if _is_recreate(found) else _bounds(found).unavailable)
    return object_fields.with_condition(
        conditions,
        "Available",
        "True" if enough else "False",
        now=now,
        reason="MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
        message=f"Deployment {'has' if enough else 'does not have'} minimum availability.",
    )


def _update_time(found: Obj, condition: Obj, now: float, *, moved: bool) -> str:
    """`lastUpdateTime` of a condition: kept while its status and reason stay, unless the rollout `moved`."""
    earlier = object_fields.condition(found, condition["type"])
    if earlier is None or moved or any(earlier.get(key) != condition.get(key) for key in ("status", "reason")):
        return object_fields.timestamp(now)
    return earlier.get("lastUpdateTime") or object_fields.timestamp(now)


def _set_of(found: Obj, template_hash: str, revision: str) -> Obj:
    template: Obj = msgspec.json.decode(msgspec.json.encode(found["spec"]["template"]))
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = (metadata.get("labels") or {}) | {_HASH: template_hash}
    selector: Obj = dict(found["spec"]["selector"])
    selector["matchLabels"] = (selector.get("matchLabels") or {}) | {_HASH: template_hash}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{object_fields.name(found)}-{template_hash}",
            "namespace": object_fields.namespace(found),
            "labels": metadata["labels"],
            "annotations": {
                _REVISION: revision,
                "deployment.kubernetes.io/desired-replicas": str(_wanted(found)),
            },
            "ownerReferences": [object_fields.controller_reference(found)],
        },
        "spec": {
            "replicas": 0,
            "selector": selector,
            "template": template,
            "minReadySeconds": found["spec"].get("minReadySeconds", 0),
        },
    }


def _wanted(obj: Obj) -> int:
    return obj["spec"].get("replicas", 1)


def _present(each: Obj) -> int:
    return (each.get("status") or {}).get("replicas", 0)


def _available(each: Obj) -> int:
    return (each.get("status") or {}).get("availableReplicas", 0)


def _size(each: Obj) -> rollout_bounds.ReplicaCounts:
    return rollout_bounds.ReplicaCounts(
        name=object_fields.name(each), wanted=_wanted(each), available=_available(each), present=_present(each)
    )


def _revision(each: Obj) -> int:
    return int(object_fields.annotations(each).get(_REVISION, "0"))


def _is_recreate(found: Obj) -> bool:
    return (found["spec"].get("strategy") or {}).get("type") == "Recreate"


def _bounds(found: Obj) -> rollout_bounds.RolloutBounds:
    rolling = (found["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    return rollout_bounds.resolve_bounds(
        _wanted(found), rolling.get("maxSurge", "25%"), rolling.get("maxUnavailable", "25%")
    )


def _advanced(before: Obj, after: Obj) -> bool:
    """True if the rollout advanced: more new, fewer old, or more ready or available pods."""
    old_before = before.get("replicas", 0) - before.get("updatedReplicas", 0)
    old_after = after["replicas"] - after["updatedReplicas"]
    return (
        after["updatedReplicas"] > before.get("updatedReplicas", 0)
        or old_after < old_before
        or after["readyReplicas"] > before.get("readyReplicas", 0)
        or after["availableReplicas"] > before.get("availableReplicas", 0)
    )
