"""The way around commits that were lost: what the log still leads to, folded beside what is served.

After a loss the log goes on from the newest keyframe and the commits that are left, and so does the compiler: its next
commit may follow a version that lies before the one an edge holds. No such commit fits what is held. It is folded
here, onto the keyframe, and served as soon as it has come to a later version than what is held.
"""

from __future__ import annotations

from shared.eventlog.epoch import begins_later
from shared.records.snapshot import Commit, Snapshot


def is_later(one: Commit | Snapshot, held: Snapshot) -> bool:
    """Whether a version may replace the one that is held: it is higher, or its epoch began later."""
    return one.version > held.version or begins_later(one.epoch, held.epoch)


class GapRecovery:
    """One reading of the log while there is a gap; mutable, and as large as a snapshot as long as it is under way."""

    def __init__(self) -> None:
        self._reached: Snapshot | None = None

    @property
    def version(self) -> int:
        """How far it has come; 0: it has not begun."""
        return self._reached.version if self._reached is not None else 0

    def end(self) -> None:
        """Forget it: the log is read anew, or there is no gap any more."""
        self._reached = None

    def take(self, commit: Commit, held: Snapshot) -> Commit | None:
        """Fold a keyframe or the next commit in; what leads from `held` to a later version, if this does.

        Raises `SnapshotError` for one that cannot be folded.
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
