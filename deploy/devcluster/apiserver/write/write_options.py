"""Options of writes and deletions."""

from __future__ import annotations

import time

import msgspec

from deploy.devcluster.apiserver.kinds.object_validation import Validation
from deploy.devcluster.apiserver.user_info import UserInfo

SYSTEM = UserInfo("system:devcluster", groups=("system:masters", "system:authenticated"))
"""The user of in-process calls by components of the devcluster."""


class WriteOptions(msgspec.Struct, frozen=True):
    """Options of a write."""

    manager: str = "devcluster"
    caller: UserInfo = SYSTEM
    dry_run: bool = False
    validation: Validation = "Ignore"
    force: bool = False
    """A server-side apply takes over conflicting fields."""
    warnings: list[str] = msgspec.field(default_factory=list)
    """Collects warnings for the caller."""


class DeleteOptions(msgspec.Struct, frozen=True):
    """Options of a deletion: grace period, propagation, preconditions."""

    grace: int | None = None
    """Seconds; None for the pod's own grace period."""
    propagation: str = ""
    """`Background` (also if empty: the garbage collector follows), `Foreground` or `Orphan`."""
    uid: str = ""
    """Precondition on the UID; empty for none."""
    resource_version: str = ""


def timestamp(seconds: float) -> str:
    """Format seconds since 1970 as RFC 3339 in UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
