"""The state of a container: `container_worker.py` changes it, `pod_status.py` converts it to a pod status."""

from __future__ import annotations

from typing import Literal

import msgspec

from deploy.devcluster.cluster_api import Obj

Role = Literal["init", "sidecar", "main"]


class ContainerWaiting(msgspec.Struct, frozen=True):
    """The container waits for its start or restart."""

    reason: str
    message: str = ""


class ContainerRunning(msgspec.Struct, frozen=True):
    """The process runs."""

    started_at: float


class ContainerTerminated(msgspec.Struct, frozen=True):
    """The process has ended."""

    exit_code: int
    reason: str
    started_at: float
    finished_at: float
    message: str = ""


class ContainerState(msgspec.Struct, frozen=True):
    """The state of one container."""

    spec: Obj
    role: Role
    state: ContainerWaiting | ContainerRunning | ContainerTerminated
    last: ContainerTerminated | None = None
    restarts: int = 0
    started: bool = False
    ready: bool = False
    finished: bool = False
    """True if it has ended and will not be restarted."""
