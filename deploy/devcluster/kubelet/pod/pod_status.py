"""A pod's status from its containers. Pure; the words and rules are Kubernetes' (pod lifecycle, KEP-753 sidecars)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.kubelet.container.state import (
    ContainerRunning,
    ContainerState,
    ContainerTerminated,
    ContainerWaiting,
)


class PodView(msgspec.Struct, frozen=True):
    """What the node agent knows about one pod."""

    init: Sequence[ContainerState]
    """Init containers and sidecars in their order."""
    main: Sequence[ContainerState]
    ip: str = ""
    host_ip: str = ""
    started_at: float = 0.0
    failure: str = ""
    """Why the pod failed as a whole, if it did."""


def phase_of(view: PodView) -> str:
    """Pending until the first container of the pod's own ran; then Running until all have ended for good."""
    if view.failure or any(each.finished and _code(each) != 0 for each in view.init if each.role == "init"):
        return "Failed"
    if view.main and all(each.finished and isinstance(each.state, ContainerTerminated) for each in view.main):
        if any(isinstance(each.state, ContainerRunning) for each in view.init):
            return "Running"  # sidecars end after them
        return "Succeeded" if all(_code(each) == 0 for each in view.main) else "Failed"
    if not is_initialized(view):
        return "Pending"
    if any(isinstance(each.state, ContainerRunning | ContainerTerminated) or each.restarts for each in view.main):
        return "Running"
    return "Pending"


def is_initialized(view: PodView) -> bool:
    """Every init container has succeeded, and every sidecar has started once."""
    return all(
        (each.finished and _code(each) == 0) if each.role == "init" else (each.started or each.restarts > 0)
        for each in view.init
    )


def status_of(pod: Obj, view: PodView, *, now: float) -> Obj:
    """The whole status; conditions of others (readiness gates) are kept."""
    before: Obj = pod.get("status") or {}
    phase = phase_of(view)
    conditions: list[Obj] = list(before.get("conditions") or [])
    ended = phase in {"Succeeded", "Failed"}
    serving = [*view.main, *(each for each in view.init if each.role == "sidecar")]
    unready = [each.spec["name"] for each in serving if not each.ready]
    finished = "PodCompleted" if phase == "Succeeded" else "PodFailed"
    reason = finished if ended else "ContainersNotReady"
    message = f"containers with unready status: [{' '.join(unready)}]"
    uninitialized = [each.spec["name"] for each in view.init if not _is_past(each)]
    conditions = object_fields.with_condition(conditions, "PodScheduled", "True", now=now)
    if is_initialized(view) or ended:
        conditions = object_fields.with_condition(conditions, "Initialized", "True", now=now)
    else:
        incomplete = f"containers with incomplete status: [{' '.join(uninitialized)}]"
        conditions = object_fields.with_condition(
            conditions, "Initialized", "False", now=now, reason="ContainersNotInitialized", message=incomplete
        )
    all_ready = not unready and not ended
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or []]
    closed = [gate for gate in gates if not _is_true(conditions, gate)]
    if all_ready:
        conditions = object_fields.with_condition(conditions, "ContainersReady", "True", now=now)
    else:
        conditions = object_fields.with_condition(
            conditions, "ContainersReady", "False", now=now, reason=reason, message=message
        )
    if all_ready and not closed:
        conditions = object_fields.with_condition(conditions, "Ready", "True", now=now)
    elif all_ready:
        gate = f"the readiness gates {' '.join(closed)} are not true"
        conditions = object_fields.with_condition(
            conditions, "Ready", "False", now=now, reason="ReadinessGatesNotReady", message=gate
        )
    else:
        conditions = object_fields.with_condition(conditions, "Ready", "False", now=now, reason=reason, message=message)
    status: Obj = {
        "phase": phase,
        "conditions": conditions,
        "hostIP": view.host_ip,
        "hostIPs": [{"ip": view.host_ip}],
        "startTime": object_fields.timestamp(view.started_at),
        "qosClass": before.get("qosClass") or "BestEffort",
        "containerStatuses": [_container(each, pod) for each in view.main],
    }
    if view.init:
        status["initContainerStatuses"] = [_container(each, pod) for each in view.init]
    if view.ip:
        status |= {"podIP": view.ip, "podIPs": [{"ip": view.ip}]}
    if view.failure:
        status |= {"reason": "Failed", "message": view.failure}
    return status


def _container(view: ContainerState, pod: Obj) -> Obj:
    entry: Obj = {
        "name": view.spec["name"],
        "image": view.spec.get("image", ""),
        "imageID": view.spec.get("image", ""),
        "containerID": f"process://{object_fields.uid(pod)}/{view.spec['name']}/{view.restarts}",
        "ready": view.ready or (view.role == "init" and view.finished and _code(view) == 0),
        "started": view.started,
        "restartCount": view.restarts,
        "state": _state(view.state),
        "lastState": _state(view.last) if view.last is not None else {},
    }
    if isinstance(view.state, ContainerWaiting) and not view.restarts:
        del entry["containerID"]
    return entry


def _state(state: ContainerWaiting | ContainerRunning | ContainerTerminated) -> Obj:
    match state:
        case ContainerWaiting():
            waiting: Obj = {"reason": state.reason}
            return {"waiting": waiting | ({"message": state.message} if state.message else {})}
        case ContainerRunning():
            return {"running": {"startedAt": object_fields.timestamp(state.started_at)}}
        case ContainerTerminated():
            ended: Obj = {
                "exitCode": state.exit_code,
                "reason": state.reason,
                "startedAt": object_fields.timestamp(state.started_at),
                "finishedAt": object_fields.timestamp(state.finished_at),
            }
            if state.exit_code > 128:
                ended["signal"] = state.exit_code - 128
            return {"terminated": ended | ({"message": state.message} if state.message else {})}


def _code(view: ContainerState) -> int | None:
    return view.state.exit_code if isinstance(view.state, ContainerTerminated) else None


def _is_past(view: ContainerState) -> bool:
    return (view.finished and _code(view) == 0) if view.role == "init" else view.started


def _is_true(conditions: Iterable[Obj], kind: str) -> bool:
    return any(each["type"] == kind and each["status"] == "True" for each in conditions)
