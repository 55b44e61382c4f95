"""Follows the compiler's commits into the fleet: the newest keyframe, then every commit, each verified by the chain.

After a gap, a rollback or a damaged payload the fleet keeps its snapshot, until a commit that stands alone, or a
keyframe and its commits (`gap_recovery`), leads to a later version. A snapshot never replaces a newer one (P3). Only an
epoch that began later may have smaller versions, after the loss of the whole log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from services.xds_edge.snapshot.fleet import Fleet
from services.xds_edge.snapshot.gap_recovery import GapRecovery, is_later
from shared.eventlog.chain import ChainVerifier
from shared.eventlog.protocol import (
    EMPTY,
    ChainBrokenError,
    Checkpoint,
    EventLog,
    EventLogError,
    LogUnavailableError,
    Record,
)
from shared.records import chunked_payload
from shared.records.snapshot import Commit, FutureSnapshotError, Snapshot, SnapshotError, decode_commit
from shared.records.subjects import Streams
from shared.service.background_task import background_task
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)

_DAMAGED = Backoff(first=0.25, longest=10.0)
_UNREACHABLE = Backoff(first=0.25, longest=0.4)
"""Seconds at most between attempts while the log is away: the edge should reconnect soon after it is back."""
TIP_CHECK = 5.0
"""Seconds between checks that the log is there and everything in it was read: without new commits nothing else shows
it."""
_AWAY_TIP_CHECK = 0.5
"""The same while the log was away at the last check."""
_TIP_WITHIN = 2.0
"""Seconds after which a log that does not answer counts as away."""
GAP_LOOK = 3.0
"""Seconds after which an edge with a gap looks for a keyframe, even without new commits."""
_BROKEN = (ChainBrokenError, chunked_payload.BlobError, SnapshotError)


class SnapshotFollower:
    """Keeps a fleet current; `run` it as a task."""

    def __init__(
        self,
        *,
        snapshots: EventLog,
        keyframes: EventLog,
        streams: Streams,
        fleet: Fleet,
        applied: Callable[[Commit], None],
        caught_up: Callable[[], None],
        checkpoint: Checkpoint = EMPTY,
        lost: Callable[[], None] = lambda: None,
        stuck: Callable[[str], None] = lambda _why: None,
    ) -> None:
        """`checkpoint`: the place of the snapshot that the fleet already has in the stream of commits.

        `caught_up` is called when everything in the log was read; `lost` when the log is away and may contain more;
        `stuck` with the reason why a newer build is needed, and with "" when it no longer is.
        """
        self._snapshots = snapshots
        self._keyframes = keyframes
        self._subject = streams.snapshot_subject
        self._keyframe_subject = streams.keyframe_subject
        self._fleet = fleet
        self._applied = applied
        self._caught_up = caught_up
        self._lost = lost
        self._stuck = stuck
        self._unreadable_keyframe = 0
        self.checkpoint = checkpoint
        """After the last commit that was read."""
        self.restarts = 0
        """How often commits were found lost or damaged."""
        self._verifier = ChainVerifier()
        self._assembler = chunked_payload.Assembler()
        self._recovery = GapRecovery()
        self._timeout: asyncio.Timeout | None = None
        self._goal = 0
        """Sequence of the newest commit when the log was last asked."""
        self._away = False
        self.gap = False
        """Whether commits are missing between the snapshot and the stream."""

    async def run(self) -> None:
        """Follow until cancelled. An outage is waited out, and after damage reading begins again at a keyframe."""
        failures = 0
        while True:
            version, unreachable = self._fleet.version, False
            try:
                async with asyncio.timeout(None) as timeout:
                    self._timeout = timeout
                    if self.gap and not self._fleet.stuck:
                        self._limit_wait()
                    try:
                        await self.follow()
                    finally:
                        self._timeout = None
            except TimeoutError:
                # The keyframe that leads beyond the damage may have come by itself, with no commit after it.
                self.checkpoint = EMPTY
            except _BROKEN as error:
                self._note_gap(error)
                self.checkpoint = EMPTY
            except EventLogError as error:
                unreachable = isinstance(error, LogUnavailableError)
                if not (unreachable and failures):
                    _log.warning("commits cannot be followed now: %s", error)
            failures = 0 if self._fleet.version != version else failures + 1
            await asyncio.sleep((_UNREACHABLE if unreachable else _DAMAGED).delay(failures))

    async def follow(self) -> None:
        """Follow until the log is away, or was rolled back behind the checkpoint; raises the error."""
        tip = await self._snapshots.tip(self._subject)
        start = await self._begin(tip)
        self._goal, self._away = tip.sequence, False
        if start > tip.sequence:
            self._report_caught_up()
        async with (
            background_task(self._check_tip()),
            contextlib.aclosing(self._snapshots.follow(start=start, subjects=self._subject)) as all_,
        ):
            async for record in all_:
                await self._fold_record(record)
                if record.sequence >= self._goal and record.ends_batch and not self._away:
                    self._report_caught_up()

    async def _begin(self, tip: Checkpoint) -> int:
        """The sequence to read from: after the checkpoint if the log still has it, else after the newest keyframe."""
        self._assembler = chunked_payload.Assembler()
        if self.checkpoint != EMPTY:
            if tip.sequence < self.checkpoint.sequence:
                raise ChainBrokenError(
                    "log/rolled-back", f"commits end at {tip.sequence}, {self.checkpoint.sequence} was read"
                )
            if self.checkpoint.sequence == tip.sequence and self.checkpoint != tip:
                raise ChainBrokenError("log/rewritten", f"commit {tip.sequence} is not the one that was read")
            self._verifier = ChainVerifier(self.checkpoint)
            return self.checkpoint.sequence + 1
        self._recovery.end()
        await self._load_keyframe()
        start = await self._first_after(self._recovery.version if self.gap else self._fleet.version)
        if tip.sequence and start > tip.sequence:
            # The next record proves the tip.
            self.checkpoint = tip
        self._verifier = ChainVerifier(tip if self.checkpoint == tip else None)
        return start

    async def _check_tip(self) -> None:
        """Report when the log is away or commits come late, and when everything was read again.

        Detects a stream that was rolled back behind the checkpoint: the next commit may get a sequence that was read
        already.
        """
        while True:
            await asyncio.sleep(_AWAY_TIP_CHECK if self._away else TIP_CHECK)
            read = self.checkpoint
            try:
                async with asyncio.timeout(_TIP_WITHIN):
                    tip = await self._snapshots.tip(self._subject)
            except (EventLogError, TimeoutError):
                self._away = True
                self._lost()
                continue
            if not self._away and self.checkpoint.sequence < self._goal:
                # Commits of the last check have not arrived yet. The log is slow, and other edges may have them.
                self._lost()
            self._goal, self._away = tip.sequence, False
            if self.checkpoint.sequence >= tip.sequence:
                self._report_caught_up()
            gone = tip.sequence < read.sequence or (tip.sequence == read.sequence and tip != read)
            if read == EMPTY or read != self.checkpoint or self.gap or not gone:
                continue
            self._note_gap(
                ChainBrokenError("log/rolled-back", f"commits end at {tip.sequence}, {read.sequence} was read")
            )

    async def _fold_record(self, record: Record) -> None:
        """Apply the next record. A record that does not fit is noted and skipped."""
        try:
            if self._verifier.fold(record) and self.checkpoint != EMPTY:
                _log.warning("commits start epoch %s", record.epoch)
            payload = self._assembler.feed(record)
            if payload is not None:
                if self.gap:
                    await self._look_for_keyframe()
                self._fold(decode_commit(payload))
        except FutureSnapshotError as error:
            self._note_newer(error)
        except _BROKEN as error:
            self._note_gap(error)
            self._verifier = ChainVerifier()
        if record.ends_batch:
            self.checkpoint = self._verifier.checkpoint

    def _note_gap(self, error: Exception) -> None:
        """Keep the snapshot until a commit that stands alone, or a keyframe, closes the gap."""
        self.restarts += 1
        self.gap = True
        self._limit_wait()
        _log.error(
            "commits are lost or damaged, version %d stays in force until a whole one comes: %s",
            self._fleet.version,
            error,
        )

    def _note_newer(self, error: FutureSnapshotError) -> None:
        """Keep the snapshot until a version arrives that this build can read and apply."""
        if self.gap and self._fleet.stuck:
            return
        self.gap = True
        self._report_stuck(f"needs a newer build: {error.what}; version {self._fleet.version} is served")
        _log.error("%s", self._fleet.stuck)

    def _report_stuck(self, why: str) -> None:
        if self._fleet.stuck != why:
            self._fleet.stuck = why
            self._stuck(why)

    def _limit_wait(self) -> None:
        if self._timeout is not None and self._timeout.when() is None:
            self._wait(GAP_LOOK)

    def _wait(self, seconds: float | None) -> None:
        """Read for this many seconds before reading anew; None: without limit."""
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)

    async def _look_for_keyframe(self) -> None:
        """Apply the newest keyframe if it is later than the gap."""
        newest = await self._keyframes.last(self._keyframe_subject)
        if newest is not None and chunked_payload.version_of(newest) > max(
            self._fleet.version, self._unreadable_keyframe
        ):
            await self._load_keyframe()

    async def _load_keyframe(self) -> None:
        """Apply the newest readable keyframe if it is newer than the snapshot; else start the recovery from it."""
        version = 0
        try:
            found = await chunked_payload.newest(self._keyframes, self._keyframe_subject)
            if found is not None:
                version = chunked_payload.version_of(found[0])
                self._fold(decode_commit(found[1]))
        except FutureSnapshotError as error:
            self._unreadable_keyframe = version
            if version > self._fleet.version:
                self._note_newer(error)
        except (chunked_payload.BlobError, SnapshotError) as error:
            _log.warning("the newest keyframe cannot be used: %s", error)

    async def _first_after(self, version: int) -> int:
        """The first sequence of a later version, by binary search: versions grow along the stream."""
        first, last = await self._snapshots.bounds()
        if not version:
            return first
        newest = await self._snapshots.last(self._subject)
        if newest is None or chunked_payload.version_of(newest) < version:
            return last + 1
        if chunked_payload.version_of(newest) == version:
            # Read it once more: only its content shows whether it is the held version.
            return newest.sequence - newest.batch[1] + 1
        low, high = first, newest.sequence
        while low < high:
            middle = (low + high) // 2
            record = await self._at(middle)
            if record is not None and chunked_payload.version_of(record) <= version:
                low = record.sequence + 1
            else:
                high = middle
        return low

    async def _at(self, sequence: int) -> Record | None:
        """The first record at or after a sequence."""
        async with contextlib.aclosing(self._snapshots.read(start=sequence, subjects=self._subject)) as records:
            async for record in records:
                return record
        return None

    def _fold(self, commit: Commit) -> None:
        held = self._fleet.snapshot
        if (commit.version, commit.epoch, commit.build) == (held.version, held.epoch, held.build):
            # The lost commit was published again, and this edge holds it.
            self._close_gap()
            return
        beyond = self._recover(commit, held) if self.gap else commit
        if beyond is None or not is_later(beyond, held):
            return
        self._fleet.apply(beyond)
        self._close_gap()
        self._applied(beyond)

    def _recover(self, commit: Commit, held: Snapshot) -> Commit | None:
        before = self._recovery.version
        beyond = self._recovery.take(commit, held)
        if self._recovery.version > before:
            # While the recovery advances, no other keyframe is needed.
            self._wait(GAP_LOOK)
        return beyond

    def _close_gap(self) -> None:
        if self.gap:
            self.gap = False
            self._recovery.end()
            self._wait(None)
        self._report_stuck("")

    def _report_caught_up(self) -> None:
        if self._fleet.version and not self.gap:
            self._caught_up()
