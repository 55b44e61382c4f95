"""Tracks a writer's position in the log: index of the objects, checkpoint after them, and validity of the chain.

Updated from the log's records whenever the log refuses an append. The chain is verified on the way; a log that lost,
rolled back or changed a record is *broken*, and a new epoch must replace it.
"""

from __future__ import annotations

import asyncio
import logging

from services.ingestor.core.log_diff import KnownObject
from services.ingestor.core.object_index import ObjectIndex
from services.ingestor.core.observations import NamespacedName
from services.ingestor.log.witness import NoWitness, Witness
from shared.eventlog.chain import ChainVerifier, checkpoint_at, was_changed
from shared.eventlog.epoch import begins_later, latest_of
from shared.eventlog.protocol import (
    EMPTY,
    ChainBrokenError,
    Checkpoint,
    EventLog,
    Extent,
    LogUnavailableError,
    Record,
    epoch_records,
)
from shared.records import events

_log = logging.getLogger(__name__)

LOG_UNAVAILABLE = "the log is unavailable"
"""`trouble` while the log does not answer."""


class ChainPosition:
    """Owned by one writer, which moves `tip` on as it appends."""

    def __init__(self, log: EventLog, scope: str, *, retry: float, witness: Witness | None = None) -> None:
        """`scope`: subject of the chain. `retry`: seconds between attempts while the log is away."""
        self._witness = witness or NoWitness()
        self.scope = scope
        self.index = ObjectIndex()
        self.tip = EMPTY
        self.broken = False
        """Whether the next append must begin a new epoch; the index is empty then."""
        self.trouble = "starting"
        """Why nothing can be appended now; empty if it can."""
        self.floor = 0
        """Highest sequence that was ever seen: a new epoch must lie beyond it, because versions only grow."""
        self.newer = ""
        """Why the log needs a newer build; empty if it does not. The index lacks that event and all later ones."""
        self.latest = ""
        """The latest epoch that was ever seen: a new one must be later, whatever the clock reads."""
        self.lost = ""
        """Reason of the newest break, for people; empty: the log was never broken."""
        self.missing = 0
        """Records that the epoch declared and that have not been read or appended."""
        self.outdated: set[str] = set()
        """Kinds of which another writer appended older state than this one knew: they must be listed again."""
        self._unfinished = False
        """Whether the log is broken only because its epoch is incomplete, which its writer may still complete."""
        self._extent: Extent | None = None
        """Extent of the stream when its chain was last read completely."""
        self._log = log
        self._retry = retry

    async def lost_records(self) -> bool:
        """Whether the stream lacks records that it had when its chain was last read, and that were not trimmed here.

        A record can be lost behind the readers that have read it; only reading the chain again shows where.
        """
        now = await self._log.extent()
        before, self._extent = self._extent, self._extent or now
        return before is not None and now.lacks(before)

    def trimmed(self, first: int) -> None:
        """Record that this ingestor trimmed the stream to begin at `first`."""
        held = self._extent
        if held is not None and first > held.first:
            self._extent = Extent(first=first, last=held.last, count=held.last - first + 1 - held.gaps)

    async def catch_up(self, start: Checkpoint) -> bool:
        """Read the records after `start`; returns whether there were any. Waits while the log is away."""
        origin = start
        self.floor = max(self.floor, start.sequence)
        before: dict[tuple[str, NamespacedName], KnownObject | None] = {}
        while True:
            try:
                verifier = ChainVerifier(start)
                try:
                    async for record in self._log.read(start=start.sequence + 1, subjects=self.scope):
                        if self._fold(verifier, record, self.index, before):
                            # Another writer has begun a new epoch, which voids the broken one.
                            self.broken = False
                    found = await self._log.tip(self.scope)
                except ChainBrokenError:
                    await self.read_all()
                    return True
                self.tip = verifier.checkpoint
                if found.sequence < self.tip.sequence or (found.sequence == self.tip.sequence and found != self.tip):
                    # Rolled back, or its end was changed. Readers may have seen the lost records: begin an epoch.
                    self.floor = max(self.floor, self.tip.sequence)
                    seen = self.tip
                    await self.read_all()
                    if not await self._begun_after(seen):
                        self._break(f"records up to {seen.sequence} were there, and the log ends at {found.sequence}")
                    return True
                self.floor = max(self.floor, self.tip.sequence)
                if found == self.tip:
                    if self._unfinished and self.tip != origin:
                        await self.read_all()
                    self.trouble = ""
                    self.outdated |= {
                        key[0] for key, known in before.items() if self.index.contradicts(key[0], key[1], known)
                    }
                    return self.tip != origin
                start = self.tip
            except LogUnavailableError:
                self.trouble = "the log is unavailable"
                await asyncio.sleep(self._retry)

    async def recover(self) -> None:
        """Read the whole chain; waits while the log is away."""
        while True:
            try:
                await self.read_all()
            except LogUnavailableError:
                self.trouble = "the log is unavailable"
                await asyncio.sleep(self._retry)
                continue
            self.trouble = ""
            return

    async def read_all(self) -> None:
        """Rebuild the index from the whole chain, and verify the chain.

        Raises `LogUnavailableError`, and changes nothing then.
        """
        before = self.missing, self.newer
        try:
            # Requested first: events compiled by now are among those read next, even if another writer appends.
            compiled = await self._witness.compiled()
            extent = await self._log.extent()
            index, tip, why = await self._read_through()
            if why:
                # A trim during the reading looks like a hole. It is a hole if a second reading finds it too.
                index, tip, why = await self._read_through()
            self._extent = extent
        except LogUnavailableError:
            self.missing, self.newer = before
            raise
        self.outdated |= self.index.replace_with(index)
        # The old tip existed as well: this writer may have appended since its last reading.
        self.floor = max(self.floor, self.tip.sequence, tip.sequence, compiled.version)
        self.latest = latest_of(self.latest, compiled.epoch)
        self.tip = tip
        self.broken = self._unfinished = False
        if why:
            self._break(why)
        elif self.tip.sequence < self.floor:
            self._break(f"records up to {self.floor} were there, and it ends at {self.tip.sequence}")
        elif self.missing:
            self.abandon_epoch()

    async def _begun_after(self, seen: Checkpoint) -> bool:
        """Whether another writer has begun an epoch after everything that was seen, between tip and reading."""
        if not begins_later(self.tip.epoch, seen.epoch):
            return False
        first = await self._log.at(seen.sequence)
        return first is not None and first.sequence > seen.sequence

    async def _read_through(self) -> tuple[ObjectIndex, Checkpoint, str]:
        """Returns index, last checkpoint, and why the chain is broken; empty if it is not."""
        self.missing, self.newer = 0, ""
        index, verifier, why = ObjectIndex(), ChainVerifier(), ""
        async for record in self._log.read(subjects=self.scope):
            try:
                if self._fold(verifier, record, index):
                    why = ""
            except ChainBrokenError as error:
                why = why or str(error)
                verifier = ChainVerifier(checkpoint_at(record))
        return index, verifier.checkpoint, why or verifier.headless

    async def prepare_epoch(self) -> None:
        """Advance the log so that a new epoch lies beyond every sequence ever read. Raises as the log does."""
        self._extent = None
        _, last = await self._log.bounds()
        if last < self.floor:
            await self._log.advance(beyond=self.floor)
            self.tip = await self._log.tip(self.scope)

    def abandon_epoch(self) -> None:
        """Mark an incomplete epoch as broken: its writer has stopped, and compilers do not use half an epoch."""
        self._unfinished = True
        self._break(f"epoch {self.tip.epoch} lacks {self.missing} of the records that it began with")

    def _fold(
        self,
        verifier: ChainVerifier,
        record: Record,
        index: ObjectIndex,
        before: dict[tuple[str, NamespacedName], KnownObject | None] | None = None,
    ) -> bool:
        """Enter a record; returns whether it begins an epoch. `before` receives the earlier state of its object."""
        begins = verifier.fold(record)
        if record.epoch != self.latest:
            self.latest = latest_of(self.latest, record.epoch)
        if begins:
            index.clear()
            self.newer = ""
            self.missing = epoch_records(record)
        self.missing = max(0, self.missing - 1)
        if begins and before is not None:
            before.clear()
        if not self.newer:
            try:
                index.fold(record, before)
            except (events.CorruptEventError, events.FutureEventError) as error:
                if was_changed(record):
                    # The verifier accepts the first record that it reads, as it has no predecessor.
                    what = f"record {record.sequence} is not what was written: it was changed"
                    raise ChainBrokenError("log/chain-broken", what, about=record.subject) from error
                if isinstance(error, events.FutureEventError):
                    self.newer = error.state(record.sequence)
                    _log.error("%s; nothing is written until then", self.newer, extra={"code": error.code})
                else:
                    # Its writer wrote it like this, and it is no object: compilers pass over it too. If the object
                    # exists, the next list shows that the log lacks it.
                    _log.debug("event %d is passed over: %s", record.sequence, error, extra={"code": error.code})
        return begins

    def _break(self, why: str) -> None:
        if not self.broken:
            _log.error("the log is broken, a new epoch will replace it: %s", why, extra={"code": "log/broken"})
        self.broken, self.lost = True, why
        self.index.clear()
