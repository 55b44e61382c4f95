"""Follows the compiler's commits into the fleet: newest keyframe, then every commit, each verified by the chain.

A hole, a rollback or a broken blob leads back to a keyframe, never to a guess; until then the fleet keeps the last
good snapshot. A snapshot of the same epoch never replaces a newer one (P3).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from services.xds_edge.fleet import Fleet
from shared import blob
from shared.eventlog.chain import Verifier
from shared.eventlog.protocol import (
    EMPTY,
    ChainBrokenError,
    Checkpoint,
    EventLog,
    EventLogError,
    Record,
)
from shared.snapshot import Commit, SnapshotError, decode_commit
from shared.subjects import Streams

_LOGGER = logging.getLogger(__name__)

_FIRST_RETRY = 0.25
_LONGEST_RETRY = 10.0


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
    ) -> None:
        """`checkpoint` is where the snapshot that the fleet already has stands in the stream of commits."""
        self._snapshots = snapshots
        self._keyframes = keyframes
        self._subject = streams.snapshot_subject
        self._keyframe_subject = streams.keyframe_subject
        self._fleet = fleet
        self._applied = applied
        self._caught_up = caught_up
        self.checkpoint = checkpoint
        """After the last commit that was folded."""
        self.restarts = 0
        """How often the log was found broken."""

    async def run(self) -> None:
        """Follow for ever; outages are waited out, a broken log leads back to a keyframe."""
        failures = 0
        while True:
            version = self._fleet.version
            try:
                await self.follow()
            except (ChainBrokenError, blob.BlobError, SnapshotError) as error:
                self.restarts += 1
                self.checkpoint = EMPTY
                _LOGGER.error("commits cannot be followed, going back to a keyframe: %s", error)  # noqa: TRY400
            except EventLogError as error:
                _LOGGER.warning("commits cannot be followed now: %s", error)
            failures = 0 if self._fleet.version != version else failures + 1
            await asyncio.sleep(min(_LONGEST_RETRY, _FIRST_RETRY * 2**failures))

    async def follow(self) -> None:
        """Follow until something is wrong, which is raised."""
        tip = await self._snapshots.tip(self._subject)
        if tip.sequence < self.checkpoint.sequence:
            raise ChainBrokenError(
                "log/rolled-back", f"commits end at {tip.sequence}, {self.checkpoint.sequence} was read"
            )
        if self.checkpoint.sequence == tip.sequence and self.checkpoint != tip:
            raise ChainBrokenError("log/rewritten", f"commit {tip.sequence} is not the one that was read")
        if self.checkpoint == EMPTY:
            verifier, start = Verifier(), await self._from_keyframe()
        else:
            verifier, start = Verifier(self.checkpoint), self.checkpoint.sequence + 1
        if start > tip.sequence:
            # Nothing to read up to now; what the tip says of itself is checked by the record that follows it.
            if self.checkpoint == EMPTY and tip.sequence:
                verifier = Verifier(tip)
                self.checkpoint = tip
            self._tell_caught_up()
        assembler = blob.Assembler()
        async with contextlib.aclosing(_closable(self._snapshots.follow(start=start, subjects=self._subject))) as all_:
            async for record in all_:
                if verifier.fold(record) and self.checkpoint != EMPTY:
                    _LOGGER.warning("commits start epoch %s", record.epoch)
                payload = assembler.feed(record)
                if payload is not None:
                    self._fold(decode_commit(payload))
                    self.checkpoint = verifier.checkpoint
                if record.sequence >= tip.sequence and record.ends_batch:
                    self._tell_caught_up()

    async def _from_keyframe(self) -> int:
        """Load the newest keyframe; the sequence of the first commit that may follow what the fleet then has."""
        found = await blob.newest(self._keyframes, self._keyframe_subject)
        if found is not None:
            self._fold(decode_commit(found[1]))
        return await self._first_after(self._fleet.version)

    async def _first_after(self, version: int) -> int:
        """The first sequence that stands for a later version. Versions grow along the stream, so it is searched."""
        first, last = await self._snapshots.bounds()
        if not version:
            return first
        newest = await self._snapshots.last(self._subject)
        if newest is None or blob.version_of(newest) <= version:
            return last + 1
        low, high = first, newest.sequence
        while low < high:
            middle = (low + high) // 2
            record = await self._at(middle)
            if record is not None and blob.version_of(record) <= version:
                low = record.sequence + 1
            else:
                high = middle
        return low

    async def _at(self, sequence: int) -> Record | None:
        """The first record from a sequence on."""
        async with contextlib.aclosing(
            _closable(self._snapshots.read(start=sequence, subjects=self._subject))
        ) as records:
            async for record in records:
                return record
        return None

    def _fold(self, commit: Commit) -> None:
        held = self._fleet.snapshot
        if held.version and commit.epoch == held.epoch and commit.version <= held.version:
            return
        self._fleet.apply(commit)
        self._applied(commit)

    def _tell_caught_up(self) -> None:
        if self._fleet.version:
            self._caught_up()


async def _closable(records: AsyncIterator[Record]) -> AsyncGenerator[Record]:
    """The same records from an iterator that can be closed, whichever implementation they come from."""
    try:
        async for record in records:
            yield record
    finally:
        close = getattr(records, "aclose", None)
        if close is not None:
            await close()
