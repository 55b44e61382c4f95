"""Writes keyframes, trims the history before them, and checks that the published version can be read back."""

from __future__ import annotations

import logging

import msgspec

from services.compiler.log.counts import PublisherCounts
from services.compiler.log.snapshot_store import HistoryRetention, SnapshotStore
from shared.eventlog.protocol import LogUnavailableError

_log = logging.getLogger(__name__)


class KeyframePolicy(msgspec.Struct, frozen=True):
    """When a keyframe is due, and what is kept."""

    commits: int = 200
    """Commits after which a keyframe is due."""
    bytes: int = 8 << 20
    """Bytes of commits after which a keyframe is due."""
    kept: HistoryRetention = HistoryRetention()
    """What is kept when the history is trimmed, after each keyframe."""
    scrub: float = 600.0
    """Seconds between two readings of everything published: only a cold reader would notice damage, too late."""


class KeyframeWriter:
    """Keeps the keyframes of one mesh so that a cold reader reaches the published version."""

    def __init__(self, snapshots: SnapshotStore, policy: KeyframePolicy, counts: PublisherCounts) -> None:
        self.wanted = False
        """Whether the next published version needs a keyframe at once: an edge may hold a version that was lost."""
        self._snapshots = snapshots
        self._policy = policy
        self._counts = counts
        self._commits = 0
        """Commits since the last keyframe."""
        self._next_scrub = 0.0

    def note_commit(self) -> None:
        """A commit was appended."""
        self._commits += 1

    async def write_if_wanted(self) -> None:
        """Write a keyframe if one is wanted or there is none, unless the newest has the published version."""
        lacks = self._snapshots.published.version > self._snapshots.keyframe_version
        if lacks and (self.wanted or not self._snapshots.keyframe_version):
            await self.write()

    async def write_if_due(self) -> None:
        """Write a keyframe if the policy's number or size of commits is reached."""
        if self._commits >= self._policy.commits or self._snapshots.since_keyframe >= self._policy.bytes:
            await self.write()

    async def write(self) -> None:
        """Write a keyframe and trim the history; an outage of the log is logged, and the next call tries again."""
        try:
            if await self._snapshots.append_keyframe():
                self._counts.keyframes += 1
                self.wanted = False
                self._counts.history_from = await self._snapshots.trim(self._policy.kept)
            self._commits = 0
        except LogUnavailableError as error:
            _log.info("no keyframe is written now: %s", error)

    async def check(self, now: float) -> bool:
        """Whether the last commit is still in the log. Writes a keyframe if a cold reader would not reach it.

        `now` is the event loop's clock, in seconds. Raises `LogUnavailableError`.
        """
        if not await self._snapshots.intact():
            _log.error("the last commit is missing from the log or damaged: the version is published again")
            return False
        whole = now >= self._next_scrub
        if self._snapshots.published.version and not await self._snapshots.leads_here(whole=whole):
            _log.error("the published version cannot be read from the newest keyframe: writing another")
            await self.write()
        if whole:
            self._next_scrub = now + self._policy.scrub
        return True
