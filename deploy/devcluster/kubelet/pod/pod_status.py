"""Computes a pod's status from its containers, as Kubernetes does (pod lifecycle, KEP-753 sidecars). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

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
    """The state of one pod in the kubelet."""

    init: Sequence[ContainerState]
    """Init containers and sidecars in their order."""
    main: Sequence[ContainerState]
    ip: str = ""
    host_ip: str = ""
    started_at: float = 0.0
    failure: str = ""
    """Reason if the pod failed as a whole, else empty."""


def phase_of(view: PodView) -> str:
    """The phase: Pending until a main container has run, Running until all have ended for good."""
    if view.failure or any(each.finished and _code(each) != 0 for each in view.init if each.role == "init"):
        return "Failed"
    if view.main and all(each.finished and isinstance(each.state, ContainerTerminated) for each in view.main):
        if any(isinstance(each.state, ContainerRunning) for each in view.init):
            return "Running"  # sidecars end after the main containers
        return "Succeeded" if all(_code(each) == 0 for each in view.main) else "Failed"
    if not is_initialized(view):
        return "Pending"
    if any(isinstance(each.state, ContainerRunning | ContainerTerminated) or each.restarts for each in view.main):
        return "Running"
    return "Pending"


def is_initialized(view: PodView) -> bool:
    """True if all init containers have succeeded and all sidecars have started once."""
    return all(
        (each.finished and _code(each) == 0) if each.role == "init" else (each.started or each.restarts > 0)
        for each in view.init
    )


class _Unmet(NamedTuple):
    """Why a condition is false; an empty reason means that it is true."""

    reason: str = ""
    message: str = ""


_TRUE = _Unmet()
_ENDED = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}


def _put(conditions: Sequence[Obj], kind: str, unmet: _Unmet, now: float) -> list[Obj]:
    held = "False" if unmet.reason else "True"
    return object_fields.with_condition(conditions, kind, held, now=now, reason=unmet.reason, message=unmet.message)


def _initialized(view: PodView, phase: str) -> _Unmet:
    if is_initialized(view) or phase in _ENDED:
        return _TRUE
    names = " ".join(each.spec["name"] for each in view.init if not _is_past(each))
    return _Unmet("ContainersNotInitialized", f"containers with incomplete status: [{names}]")


def _containers_ready(view: PodView, phase: str) -> _Unmet:
    serving = [*view.main, *(each for each in view.init if each.role == "sidecar")]
    unready = [each.spec["name"] for each in serving if not each.ready]
    if not unready and phase not in _ENDED:
        return _TRUE
    message = f"containers with unready status: [{' '.join(unready)}]"
    return _Unmet(_ENDED.get(phase, "ContainersNotReady"), message)


def _ready(pod: Obj, conditions: Sequence[Obj], containers_ready: _Unmet) -> _Unmet:
    """The condition `Ready`: all containers are ready, and all readiness gates of the pod are true."""
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or []]
    closed = [gate for gate in gates if not _is_true(conditions, gate)]
    if containers_ready.reason or not closed:
        return containers_ready
    return _Unmet("ReadinessGatesNotReady", f"the readiness gates {' '.join(closed)} are not true")


def status_of(pod: Obj, view: PodView, *, now: float) -> Obj:
    """The whole status. Conditions of other components (readiness gates) are kept."""
    before: Obj = pod.get("status") or {}
    phase = phase_of(view)
    conditions: list[Obj] = list(before.get("conditions") or [])
    containers_ready = _containers_ready(view, phase)
    conditions = _put(conditions, "PodScheduled", _TRUE, now)
    conditions = _put(conditions, "Initialized", _initialized(view, phase), now)
    conditions = _put(conditions, "ContainersReady", containers_ready, now)
    conditions = _put(conditions, "Ready", _ready(pod, conditions, containers_ready), now)
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
