"""Where a writer stands in the log: what the log holds, the checkpoint after it, and whether its chain holds.

Rebuilt from the log's own words whenever the log refuses an append: the chain is verified on the way, and a log that
lost, rolled back or changed a record is *broken*, to be replaced by a new epoch.
"""

from __future__ import annotations

import asyncio
import logging

from services.ingestor.book import Book
from shared import events
from shared.eventlog.chain import Verifier, checkpoint_at
from shared.eventlog.protocol import EMPTY, ChainBrokenError, Checkpoint, EventLog, LogUnavailableError

_log = logging.getLogger(__name__)


class Standing:
    """Owned by one writer, which moves `tip` on as it appends."""

    def __init__(self, log: EventLog, scope: str, *, retry: float) -> None:
        """`retry`: seconds between attempts while the log is away."""
        self.book = Book()
        self.tip = EMPTY
        self.broken = False
        """Whether the next append must begin a new epoch; the book is empty then."""
        self.trouble = "starting"
        """Why nothing can be written now; empty while all is well."""
        self._log = log
        self._scope = scope
        self._retry = retry

    async def catch_up(self, start: Checkpoint) -> bool:
        """Read what others wrote after `start`; true if anything was there. Waits while the log is away."""
        origin = start
        while True:
            try:
                verifier = Verifier(start)
                try:
                    async for record in self._log.read(start=start.sequence + 1, subjects=self._scope):
                        if verifier.fold(record):
                            # Somebody has begun a new epoch: whatever was broken is void.
                            self.book.clear()
                            self.broken = False
                        self.book.fold(record)
                    found = await self._log.tip(self._scope)
                except ChainBrokenError:
                    await self.read_all()
                    return True
                self.tip = verifier.checkpoint
                if found.sequence < self.tip.sequence or (found.sequence == self.tip.sequence and found != self.tip):
                    # Rolled back, or its end was changed. Readers may have seen what is lost: a new epoch it is.
                    await self.read_all()
                    self.broken = True
                    self.book.clear()
                    return True
                if found == self.tip:
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
        """Read the whole chain: the book anew, and whether the chain holds."""
        self.book.clear()
        verifier, broken = Verifier(), False
        async for record in self._log.read(subjects=self._scope):
            try:
                if verifier.fold(record):
                    broken = False
                    self.book.clear()
                self.book.fold(record)
            except (ChainBrokenError, events.CorruptEventError) as error:
                if not broken:
                    _log.error("the log is broken, a new epoch will replace it: %s", error)
                broken = True
                verifier = Verifier(checkpoint_at(record))
        self.tip = verifier.checkpoint
        self.broken = broken
        if broken:
            self.book.clear()
