"""A container as its status tells it: what `container_worker.py` lives through and `pod_status.py` writes down."""

from __future__ import annotations

from typing import Literal

import msgspec

from deploy.devcluster.cluster_api import Obj

Role = Literal["init", "sidecar", "main"]


class ContainerWaiting(msgspec.Struct, frozen=True):
    """Not started yet, or not started again yet."""

    reason: str
    message: str = ""


class ContainerRunning(msgspec.Struct, frozen=True):
    """Its process runs."""

    started_at: float


class ContainerTerminated(msgspec.Struct, frozen=True):
    """Its process ended."""

    exit_code: int
    reason: str
    started_at: float
    finished_at: float
    message: str = ""


class ContainerState(msgspec.Struct, frozen=True):
    """A container as its status tells it."""

    spec: Obj
    role: Role
    state: ContainerWaiting | ContainerRunning | ContainerTerminated
    last: ContainerTerminated | None = None
    restarts: int = 0
    started: bool = False
    ready: bool = False
    finished: bool = False
    """It ended and will not be started again."""
