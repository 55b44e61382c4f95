"""A container as its status tells it: what `container.py` lives through and `status.py` writes down."""

from __future__ import annotations

from typing import Literal

import msgspec

from deploy.devcluster.cluster import Obj

Role = Literal["init", "sidecar", "main"]


class Waiting(msgspec.Struct, frozen=True):
    """Not started yet, or not started again yet."""

    reason: str
    message: str = ""


class Running(msgspec.Struct, frozen=True):
    """Its process runs."""

    started_at: float


class Terminated(msgspec.Struct, frozen=True):
    """Its process ended."""

    exit_code: int
    reason: str
    started_at: float
    finished_at: float
    message: str = ""


class View(msgspec.Struct, frozen=True):
    """A container as its status tells it."""

    spec: Obj
    role: Role
    state: Waiting | Running | Terminated
    last: Terminated | None = None
    restarts: int = 0
    started: bool = False
    ready: bool = False
    finished: bool = False
    """It ended and will not be started again."""
