"""Follows the compiler's commits into the fleet: newest keyframe, then every commit, each verified by the chain.

After a hole, a rollback or a broken blob nothing is guessed: the fleet keeps its snapshot until a commit that stands
alone, or a keyframe with the commits that follow it (`recovery`), leads beyond the damage. A snapshot never replaces a
newer one (P3); only an epoch that began later may have smaller versions, after a loss of everything.
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
"""Seconds at most between attempts while the log is away: whoever waits for it is to have it when it is back."""
TIP_CHECK = 5.0
"""Seconds between looks whether the log is there and has what was read: while nothing comes it says neither itself."""
_AWAY_TIP_CHECK = 0.5
"""The same while it was away at the last look."""
_TIP_WITHIN = 2.0
"""Seconds after which a log that does not answer is away."""
GAP_LOOK = 3.0
"""Seconds after which an edge that misses commits looks for a keyframe beyond them, though nothing comes."""
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
        """`checkpoint` is where the snapshot that the fleet already has stands in the stream of commits.

        `caught_up` is told that all there is was read; `lost`, that the log went away, and there may be more.

        `stuck` is told what a newer build is needed for, and "" when it is needed no more.
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
        """After the last commit that was folded."""
        self.restarts = 0
        """How often commits were found lost or damaged."""
        self._verifier = ChainVerifier()
        self._assembler = chunked_payload.Assembler()
        self._recovery = GapRecovery()
        self._patience: asyncio.Timeout | None = None
        self._goal = 0
        """The sequence of commits up to which all was there when the log was last asked."""
        self._away = False
        self.gap = False
        """Whether commits are missing between what is held and what comes."""

    async def run(self) -> None:
        """Follow for ever; outages are waited out, a broken log leads back to a keyframe."""
        failures = 0
        while True:
            version, unreachable = self._fleet.version, False
            try:
                async with asyncio.timeout(None) as patience:
                    self._patience = patience
                    if self.gap and not self._fleet.stuck:
                        self._limit_wait()
                    try:
                        await self.follow()
                    finally:
                        self._patience = None
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
        """Follow until the log is away, or was rolled back behind what was read: either is raised."""
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
                await self._take(record)
                if record.sequence >= self._goal and record.ends_batch and not self._away:
                    self._report_caught_up()

    async def _begin(self, tip: Checkpoint) -> int:
        """Where to read on from: after what is held, if the log still has that, else after the newest keyframe."""
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
            # What the tip says of itself is checked by the record that follows it.
            self.checkpoint = tip
        self._verifier = ChainVerifier(tip if self.checkpoint == tip else None)
        return start

    async def _check_tip(self) -> None:
        """Tell when the log is away or what it holds comes late, and when all was read again.

        Notice a stream that went back behind what was read: the next commit may get a sequence passed already.
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
                # What was there at the last look has not come yet: slow, but others may have it.
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

    async def _take(self, record: Record) -> None:
        """Fold the next record in; what does not fit is noted, and read past."""
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
        """Keep what is held until a commit that stands alone, or a keyframe, leads beyond the damage."""
        self.restarts += 1
        self.gap = True
        self._limit_wait()
        _log.error(
            "commits are lost or damaged, version %d stays in force until a whole one comes: %s",
            self._fleet.version,
            error,
        )

    def _note_newer(self, error: FutureSnapshotError) -> None:
        """Keep what is held until a version comes that this build reads, and leads there from what it holds."""
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
        if self._patience is not None and self._patience.when() is None:
            self._wait(GAP_LOOK)

    def _wait(self, seconds: float | None) -> None:
        """Read on for so long before beginning anew; none: for as long as all is well."""
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)

    async def _look_for_keyframe(self) -> None:
        """Go on from a keyframe if there is one beyond the damage."""
        newest = await self._keyframes.last(self._keyframe_subject)
        if newest is not None and chunked_payload.version_of(newest) > max(
            self._fleet.version, self._unreadable_keyframe
        ):
            await self._load_keyframe()

    async def _load_keyframe(self) -> None:
        """Take up the newest keyframe that can be read, if it is newer than what is held; else go around by it."""
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
        """The first sequence that stands for a later version. Versions grow along the stream, so it is searched."""
        first, last = await self._snapshots.bounds()
        if not version:
            return first
        newest = await self._snapshots.last(self._subject)
        if newest is None or chunked_payload.version_of(newest) < version:
            return last + 1
        if chunked_payload.version_of(newest) == version:
            # Read once more: whether it is the version that is held, only its content tells.
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
        """The first record from a sequence on."""
        async with contextlib.aclosing(self._snapshots.read(start=sequence, subjects=self._subject)) as records:
            async for record in records:
                return record
        return None

    def _fold(self, commit: Commit) -> None:
        held = self._fleet.snapshot
        if (commit.version, commit.epoch, commit.build) == (held.version, held.epoch, held.build):
            # What was lost is said again, and it is what this edge holds.
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
            # However long the way is: as long as it goes on, there is no other to look for.
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
