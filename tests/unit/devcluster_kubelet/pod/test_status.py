"""A pod's status from its containers, in Kubernetes' words."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.kubelet.container.state import (
    ContainerRunning,
    ContainerState,
    ContainerTerminated,
    ContainerWaiting,
    Role,
)
from deploy.devcluster.kubelet.pod.pod_status import PodView, phase_of, status_of
from deploy.devcluster.kubelet.pod.status_report import StatusReport
from tests.unit.devcluster_kubelet.machine import container, pod

RUNNING = ContainerRunning(10.0)
WAITING = ContainerWaiting("PodInitializing")


def ended(code: int) -> ContainerTerminated:
    return ContainerTerminated(code, "Completed" if code == 0 else "Error", 10.0, 11.0)


def seen(role: Role, state: ContainerWaiting | ContainerRunning | ContainerTerminated, **fields: Any) -> ContainerState:
    return ContainerState(spec=container(role), role=role, state=state, **fields)


def done(role: Role, code: int) -> ContainerState:
    return seen(role, ended(code), finished=True)


@pytest.mark.parametrize(
    ("init", "main", "phase"),
    [
        ([], [seen("main", WAITING)], "Pending"),
        ([], [seen("main", RUNNING)], "Running"),
        ([], [seen("main", ended(1))], "Running"),
        ([], [seen("main", WAITING, restarts=3)], "Running"),
        ([], [done("main", 0), seen("main", RUNNING)], "Running"),
        ([], [done("main", 0), done("main", 0)], "Succeeded"),
        ([], [done("main", 0), done("main", 1)], "Failed"),
        ([seen("init", RUNNING)], [seen("main", WAITING)], "Pending"),
        ([seen("init", ended(1))], [seen("main", WAITING)], "Pending"),
        ([done("init", 1)], [seen("main", WAITING)], "Failed"),
        ([done("init", 0)], [seen("main", RUNNING)], "Running"),
        ([seen("sidecar", RUNNING)], [seen("main", WAITING)], "Pending"),
        ([seen("sidecar", RUNNING, started=True)], [seen("main", RUNNING)], "Running"),
        ([seen("sidecar", RUNNING, started=True)], [done("main", 0)], "Running"),
        ([done("sidecar", 143)], [done("main", 0)], "Succeeded"),
    ],
)
def test_the_phase_follows_the_containers(init: list[ContainerState], main: list[ContainerState], phase: str) -> None:
    assert phase_of(PodView(init=init, main=main)) == phase


def test_an_unready_sidecar_makes_the_pod_unready_and_is_named() -> None:
    view = PodView(init=[seen("sidecar", RUNNING, started=True)], main=[seen("main", RUNNING, ready=True)])
    condition = object_fields.condition({"status": status_of(pod(), view, now=20.0)}, "Ready")
    assert condition is not None
    assert (condition["status"], condition["reason"]) == ("False", "ContainersNotReady")
    assert condition["message"] == "containers with unready status: [sidecar]"


def test_a_condition_keeps_its_time_until_it_turns() -> None:
    ready = PodView(init=[], main=[seen("main", RUNNING, ready=True)])
    first = pod() | {"status": status_of(pod(), ready, now=20.0)}
    second = pod() | {"status": status_of(first, ready, now=30.0)}
    unready = PodView(init=[], main=[seen("main", RUNNING)])
    third = pod() | {"status": status_of(second, unready, now=40.0)}
    times = [
        (object_fields.condition(each, "Ready") or {})["lastTransitionTime"][-3:] for each in (first, second, third)
    ]
    assert times == ["20Z", "20Z", "40Z"]


class Patches:
    """A cluster that only counts."""

    def __init__(self) -> None:
        self.taken: list[Obj] = []

    async def patch(self, *_: object, **__: object) -> Obj:
        self.taken.append({})
        return {}


async def test_the_same_status_is_not_written_twice() -> None:
    patches: Any = Patches()
    view = PodView(init=[], main=[seen("main", RUNNING, ready=True)])
    clock = iter([20.0, 30.0, 40.0])
    report = StatusReport(patches, pod, lambda: view, now=lambda: next(clock))
    await report.write()
    await report.write()
    assert len(patches.taken) == 1
    view = PodView(init=[], main=[seen("main", RUNNING)])
    await report.write()
    assert len(patches.taken) == 2
