"""Where a writer stands in the log: what the log holds, the checkpoint after it, and whether its chain holds.

Rebuilt from the log's own words whenever the log refuses an append: the chain is verified on the way, and a log that
lost, rolled back or changed a record is *broken*, to be replaced by a new epoch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from services.ingestor.core.diff import Known
from services.ingestor.core.object_index import Book
from services.ingestor.core.observations import ObjectName
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
from shared.records import chunked_payload, events
from shared.records.subjects import Streams

_log = logging.getLogger(__name__)


class Compiled(msgspec.Struct, frozen=True):
    """How far somebody is known to have read."""

    version: int = 0
    """The highest sequence: the version of the newest snapshot; 0: there is none."""
    epoch: str = ""
    """The latest epoch; empty: none is known."""


Witness = Callable[[], Awaitable[Compiled]]
"""Tells what was compiled already."""


async def newest_version(commits: EventLog, keyframes: EventLog, streams: Streams) -> Compiled:
    """What the newest commit or keyframe was compiled from, whichever is newer."""
    last = await commits.last(streams.snapshot_subject), await keyframes.last(streams.keyframe_subject)
    found = [record for record in last if record is not None]
    return Compiled(
        max(map(chunked_payload.version_of, found), default=0), latest_of(*map(chunked_payload.epoch_of, found))
    )


async def _no_witness() -> Compiled:
    return Compiled()


class Standing:
    """Owned by one writer, which moves `tip` on as it appends."""

    def __init__(self, log: EventLog, scope: str, *, retry: float, witness: Witness | None = None) -> None:
        """`retry`: seconds between attempts while the log is away."""
        self._witness = witness or _no_witness
        self.book = Book()
        self.tip = EMPTY
        self.broken = False
        """Whether the next append must begin a new epoch; the book is empty then."""
        self.trouble = "starting"
        """Why nothing can be written now; empty while all is well."""
        self.floor = 0
        """Highest sequence that was ever seen: a new epoch must lie beyond it, because versions only grow."""
        self.newer = ""
        """What a newer build is needed for; empty: nothing. The book lacks that event and all after it."""
        self.latest = ""
        """The latest epoch that was ever seen: a new one must begin after it, whatever the clock says."""
        self.lost = ""
        """What the newest break lost, for people; empty: nothing yet."""
        self.missing = 0
        """Records that the epoch was announced with and that are not there yet."""
        self.outdated: set[str] = set()
        """Kinds of which the log, by another writer, says something older than what we knew: to be listed again."""
        self._unfinished = False
        """Whether it is broken only because its epoch was begun and not finished, which its writer may do yet."""
        self._extent: Extent | None = None
        """What the stream held when its chain was last read through."""
        self._log = log
        self._scope = scope
        self._retry = retry

    async def vanished(self) -> bool:
        """Whether the stream lacks records that were there when its chain was last read, and nobody here trimmed.

        Records in its midst can vanish behind everybody who has read them; the chain shows it to who reads again.
        """
        now = await self._log.extent()
        before, self._extent = self._extent, self._extent or now
        return before is not None and now.lacks(before)

    def trimmed(self, first: int) -> None:
        """The stream now begins with this record, by our own hand."""
        held = self._extent
        if held is not None and first > held.first:
            self._extent = Extent(first=first, last=held.last, count=held.last - first + 1 - held.gaps)

    async def catch_up(self, start: Checkpoint) -> bool:
        """Read what others wrote after `start`; true if anything was there. Waits while the log is away."""
        origin = start
        self.floor = max(self.floor, start.sequence)
        before: dict[tuple[str, ObjectName], Known | None] = {}
        while True:
            try:
                verifier = ChainVerifier(start)
                try:
                    async for record in self._log.read(start=start.sequence + 1, subjects=self._scope):
                        if self._fold(verifier, record, self.book, before):
                            # Somebody has begun a new epoch: whatever was broken is void.
                            self.broken = False
                    found = await self._log.tip(self._scope)
                except ChainBrokenError:
                    await self.read_all()
                    return True
                self.tip = verifier.checkpoint
                if found.sequence < self.tip.sequence or (found.sequence == self.tip.sequence and found != self.tip):
                    # Rolled back, or its end was changed. Readers may have seen what is lost: a new epoch it is.
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
                        key[0] for key, known in before.items() if self.book.contradicts(key[0], key[1], known)
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
        """Read the whole chain: the book anew, and whether the chain holds. If the log goes away, nothing changes."""
        before = self.missing, self.newer
        try:
            # Asked first: what is compiled by then stands in what is read, whoever writes on meanwhile.
            compiled = await self._witness()
            extent = await self._log.extent()
            book, tip, why = await self._read_through()
            if why:
                # A trim under a reader looks like a hole. It is one if it is still there.
                book, tip, why = await self._read_through()
            self._extent = extent
        except LogUnavailableError:
            self.missing, self.newer = before
            raise
        self.outdated |= self.book.become(book)
        # Where this writer stood was there too: it may have written since it last read.
        self.floor = max(self.floor, self.tip.sequence, tip.sequence, compiled.version)
        self.latest = latest_of(self.latest, compiled.epoch)
        self.tip = tip
        self.broken = self._unfinished = False
        if why:
            self._break(why)
        elif self.tip.sequence < self.floor:
            self._break(f"records up to {self.floor} were there, and it ends at {self.tip.sequence}")
        elif self.missing:
            self.give_up_epoch()

    async def _begun_after(self, seen: Checkpoint) -> bool:
        """Whether somebody has begun an epoch beyond all that was seen, between the look and the reading."""
        if not begins_later(self.tip.epoch, seen.epoch):
            return False
        first = await self._log.at(seen.sequence)
        return first is not None and first.sequence > seen.sequence

    async def _read_through(self) -> tuple[Book, Checkpoint, str]:
        """What the log says, where it ends, and why its chain does not hold (empty: it does)."""
        self.missing, self.newer = 0, ""
        book, verifier, why = Book(), ChainVerifier(), ""
        async for record in self._log.read(subjects=self._scope):
            try:
                if self._fold(verifier, record, book):
                    why = ""
            except ChainBrokenError as error:
                why = why or str(error)
                verifier = ChainVerifier(checkpoint_at(record))
        return book, verifier.checkpoint, why or verifier.headless

    async def begin_anew(self) -> None:
        """Make room for a new epoch: its sequences lie beyond everything that was ever read. Raises as the log does."""
        self._extent = None
        _, last = await self._log.bounds()
        if last < self.floor:
            await self._log.advance(beyond=self.floor)
            self.tip = await self._log.tip(self._scope)

    def give_up_epoch(self) -> None:
        """Whoever began the epoch did not finish it: another one is needed, for nobody compiles half an epoch."""
        self._unfinished = True
        self._break(f"epoch {self.tip.epoch} lacks {self.missing} of the records that it began with")

    def _fold(
        self,
        verifier: ChainVerifier,
        record: Record,
        book: Book,
        before: dict[tuple[str, ObjectName], Known | None] | None = None,
    ) -> bool:
        """Enter a record; true if it begins a new epoch. `before` keeps what was known of each object entered."""
        begins = verifier.fold(record)
        if record.epoch != self.latest:
            self.latest = latest_of(self.latest, record.epoch)
        if begins:
            book.clear()
            self.newer = ""
            self.missing = epoch_records(record)
        self.missing = max(0, self.missing - 1)
        if begins and before is not None:
            before.clear()
        if not self.newer:
            try:
                book.fold(record, before)
            except (events.CorruptEventError, events.FutureEventError) as error:
                if was_changed(record):
                    # The first that is read is believed by the verifier, as nothing stands before it.
                    what = f"record {record.sequence} is not what was written: it was changed"
                    raise ChainBrokenError("log/chain-broken", what, about=record.subject) from error
                if isinstance(error, events.FutureEventError):
                    self.newer = error.state(record.sequence)
                    _log.error("%s; nothing is written until then", self.newer, extra={"code": error.code})
                else:
                    # It is what its writer wrote, and no object: compilers pass over it too. If there was one, the
                    # next list finds that the log lacks it.
                    _log.debug("event %d is passed over: %s", record.sequence, error, extra={"code": error.code})
        return begins

    def _break(self, why: str) -> None:
        if not self.broken:
            _log.error("the log is broken, a new epoch will replace it: %s", why, extra={"code": "log/broken"})
        self.broken, self.lost = True, why
        self.book.clear()
