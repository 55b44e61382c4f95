"""Gap recovery: rebuilds a second snapshot from the newest keyframe while the last good one is served.

After a loss, the log goes on from the newest keyframe and the remaining commits, and so does the compiler: its next
commit may follow a version before the one that the edge holds. Such a commit does not fit the held snapshot. It is
applied here, to the keyframe, and the result is served once it has a later version than the held one.
"""

from __future__ import annotations

from shared.eventlog.epoch import begins_later
from shared.records.snapshot import Commit, Snapshot


def is_later(one: Commit | Snapshot, held: Snapshot) -> bool:
    """Whether a version may replace the held one: it is higher, or its epoch began later."""
    return one.version > held.version or begins_later(one.epoch, held.epoch)


class GapRecovery:
    """One recovery from a gap; it needs as much memory as a snapshot while it lasts."""

    def __init__(self) -> None:
        self._reached: Snapshot | None = None

    @property
    def version(self) -> int:
        """Version of the second snapshot; 0 before it begins."""
        return self._reached.version if self._reached is not None else 0

    def end(self) -> None:
        """Drop the second snapshot: the log is read anew, or the gap is closed."""
        self._reached = None

    def take(self, commit: Commit, held: Snapshot) -> Commit | None:
        """Apply a keyframe or commit; returns the commit that leads from `held` to a later version, or None.

        Raises `SnapshotError` if it cannot be applied.
        """
        if commit.parent in {0, held.version} and is_later(commit, held):
            return commit
        reached = self._reached
        if commit.parent == 0:
            reached = Snapshot()
        elif reached is None or commit.version <= reached.version:
            return None
        self._reached = None
        if commit.parent not in {0, reached.version}:
            return None
        reached.apply(commit)
        self._reached = reached
        return reached.keyframe() if is_later(reached, held) else None
