"""How a write is to be made, and by whom."""

from __future__ import annotations

import time

import msgspec

from deploy.devcluster.apiserver.kinds.object_validation import Validation
from deploy.devcluster.apiserver.user_info import UserInfo

SYSTEM = UserInfo("system:devcluster", groups=("system:masters", "system:authenticated"))
"""The devcluster's own parts, which call in-process."""


class WriteOptions(msgspec.Struct, frozen=True):
    """Options of a write."""

    manager: str = "devcluster"
    caller: UserInfo = SYSTEM
    dry_run: bool = False
    validation: Validation = "Ignore"
    force: bool = False
    """A server-side apply takes fields over that others own."""
    warnings: list[str] = msgspec.field(default_factory=list)
    """Warnings for the caller are added here."""


class DeleteOptions(msgspec.Struct, frozen=True):
    """What a deletion waits for, and insists on."""

    grace: int | None = None
    """Seconds; none: what the pod says."""
    propagation: str = ""
    """`Background` (also if empty: the garbage collector follows), `Foreground` or `Orphan`."""
    uid: str = ""
    """Only this very object; empty: any."""
    resource_version: str = ""


def timestamp(seconds: float) -> str:
    """RFC 3339, whole seconds, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
