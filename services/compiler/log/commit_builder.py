"""Builds the next commit: the difference between the published version and the events folded so far."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from services.compiler.core.compiler import Compiler
from services.compiler.log.counts import PublisherCounts
from services.compiler.log.loop_turns import LoopTurns
from services.compiler.log.snapshot_store import SnapshotStore
from shared.records.snapshot import Commit
from shared.telemetry import traces

_log = logging.getLogger(__name__)


class CommitBuilder:
    """Compiles, and decides whether the result may be published under its version."""

    def __init__(self, snapshots: SnapshotStore, counts: PublisherCounts, compiled: Callable[[float], None]) -> None:
        """`compiled` receives the seconds that each compile took."""
        self.held_back = 0
        """Version whose difference waits for the next event, because the version is published already; 0 if none."""
        self._snapshots = snapshots
        self._counts = counts
        self._compiled = compiled

    async def build(self, compiler: Compiler, span: traces.Span) -> Commit | None:
        """Compile. Returns the commit to append, or None if there is nothing to publish now."""
        started = asyncio.get_running_loop().time()
        failures_before = len(compiler.failures)
        commit = await self._difference(compiler)
        self._compiled(asyncio.get_running_loop().time() - started)
        if len(compiler.failures) > failures_before:
            for (query, arguments), error in sorted(compiler.failures.items()):
                _log.error("%s%s cannot be compiled, its former result stays: %s", query, arguments, error)
        self._counts.failures = len(compiler.failures)
        if commit is None:
            compiler.accept()
            return None
        # A version that the log lost may be published again: the same build makes the same bytes of it.
        highest = self._snapshots.highest, self._snapshots.highest_build
        repeats = commit.parent < commit.version and (commit.version, commit.build) == highest
        if not self._snapshots.outdoes(commit) and not repeats:
            # The same events, compiled differently by another build, or a log that lost its end. Versions only grow,
            # so the difference waits for the next event.
            if self.held_back != commit.version:
                _log.warning("version %d exists already; the difference waits for the next event", commit.version)
            self.held_back = commit.version
            return None
        span.set(version=commit.version, resources=len(commit.resources), views=len(commit.views))
        return commit

    async def _difference(self, compiler: Compiler) -> Commit | None:
        """The commit from the published version to the folded events, or None if they are equal and not in doubt.

        If a commit was lost, an edge may hold a version that is no longer published; a new epoch begins because the
        log was damaged. Then the commit is made even if nothing differs, so that such edges have a version to follow.
        """
        published = self._snapshots.published
        commit = await LoopTurns().finish(compiler.committing(published))
        epoch_is_new = published.version > 0 and published.epoch != compiler.epoch
        if (commit is not None and commit.version > published.version) or not (
            self._snapshots.doubtful or epoch_is_new
        ):
            return commit
        if compiler.version > published.version:
            return await LoopTurns().finish(compiler.committing(published, always=True))
        return published.keyframe() if self._snapshots.hidden else commit

    def count(self, commit: Commit, size: int) -> None:
        """Count and log a commit that was appended; `size` in bytes."""
        counts = self._counts
        counts.commits += 1
        counts.bytes += size
        counts.resources += len(commit.resources)
        counts.quarantined = len(self._snapshots.published.quarantine)
        _log.info(
            "published",
            extra={
                "version": commit.version,
                "parent": commit.parent,
                "resources": len(commit.resources),
                "views": len(commit.views),
                "proxies": len(commit.proxies),
                "quarantined": counts.quarantined,
                "bytes": size,
            },
        )
