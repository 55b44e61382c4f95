"""Looks up records behind foreign ones: the newest own record of a stream, and where the chain before a record ends.

A server returns the newest record of a subject, own or foreign. If it is foreign, earlier ones are read in windows that
grow: a few requests, however many foreign records there are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from shared.eventlog.chain import checkpoint_at
from shared.eventlog.foreign import ForeignFilter, ReadFilter
from shared.eventlog.protocol import Checkpoint, Record
from shared.eventlog.stream_spec import matches

Span = Callable[[int, int, str], Awaitable[list[Record]]]
"""All records from one sequence to another, both included, of these subjects, foreign ones too."""
First = Callable[[], Awaitable[int]]
"""The first sequence of the stream."""

_WINDOW = 64
_GROWTH = 8


class OwnRecords:
    """Looks up the own records of one stream."""

    def __init__(self, foreign_filter: ForeignFilter, span: Span, first: First) -> None:
        self._filter = foreign_filter
        self._span = span
        self._first = first

    def read_filter(self, subjects: str) -> ReadFilter:
        """Return a filter for one reading of these subjects, in order."""
        return ReadFilter(self._filter, subjects, self.before)

    async def is_own(self, record: Record, *, content: bool) -> bool:
        """Whether a single record is the stream's own; with `content`, also whether its content is valid."""
        foreign_filter = self._filter
        if foreign_filter.why_foreign(record):
            return False
        if not foreign_filter.is_guest(record):
            return True
        if foreign_filter.why_unchained(await self.before(record), record):
            return False
        return not (content and foreign_filter.why_void(record))

    async def newest(self, found: Record | None, subjects: str, *, content: bool) -> Record | None:
        """Return the newest own record of these subjects; `found` is the newest of all."""
        if found is None or await self.is_own(found, content=content):
            return found
        first, high, window = await self._first(), found.sequence - 1, _WINDOW
        while high >= first:
            low = max(first, high - window + 1)
            own = await self._own(low, high, subjects, content=content)
            if own:
                return own[-1]
            high, window = low - 1, window * _GROWTH
        return None

    async def newest_of_each(self, found: dict[str, Record], subjects: str) -> dict[str, Record]:
        """Return the same for each subject that has an own record; `found` holds the newest of all."""
        kept = {subject: one for subject, one in found.items() if await self.is_own(one, content=True)}
        doubtful = {subject: one for subject, one in found.items() if subject not in kept}
        if not doubtful:
            return kept
        end = max(record.sequence for record in doubtful.values())
        for record in await self._own(await self._first(), end, subjects, content=True):
            if record.subject in doubtful:
                kept[record.subject] = record
        return kept

    async def _own(self, low: int, high: int, subjects: str, *, content: bool) -> list[Record]:
        """The stream's own records of a span."""
        # The whole chain is read: whether a guest's record counts depends on the records before it.
        wide = self._filter.scope(subjects)
        reading = self.read_filter(wide)
        return [
            record
            for record in await self._span(low, high, wide)
            if await reading.is_own(record)
            and matches(subjects, record.subject)
            and not (content and self._filter.is_guest(record) and self._filter.why_void(record))
        ]

    async def before(self, record: Record) -> Checkpoint | None:
        """Return where the chain ended before a guest's record; None if the stream no longer holds that."""
        foreign_filter, scope = self._filter, self._filter.scope(record.subject)
        first, high, window = await self._first(), record.sequence - 1, _WINDOW
        trail: list[Record] = []
        while high >= first:
            low = max(first, high - window + 1)
            trail = [one for one in await self._span(low, high, scope) if not foreign_filter.why_foreign(one)] + trail
            # A guest's record counts if it continues the chain: begin at the last record of another writer.
            begins = max((index for index, one in enumerate(trail) if not foreign_filter.is_guest(one)), default=None)
            if begins is not None:
                return self._followed(trail[begins:])
            high, window = low - 1, window * _GROWTH
        return self._followed(trail)

    def _followed(self, trail: list[Record]) -> Checkpoint | None:
        reached: Checkpoint | None = None
        for record in trail:
            if reached is None or not self._filter.why_unchained(reached, record):
                reached = checkpoint_at(record)
        return reached

    async def end_of(self, scope: str, after: Checkpoint, found: Record | None) -> int | None:
        """Return the sequence at which a scope ends if only foreign records follow `after`; else None.

        `found` is the newest record of the scope, own or foreign. The record at `after` must still be there: a stream
        that was rolled back and filled by others does not end where its writer believes.
        """
        if found is None or found.sequence <= after.sequence:
            return None
        reading, there = self.read_filter(scope), after.sequence == 0 or self._filter.forgets
        for record in await self._span(max(after.sequence, 1), found.sequence, scope):
            own = await reading.is_own(record)
            if record.sequence == after.sequence:
                there = own and checkpoint_at(record) == after
            elif own:
                return None
        return found.sequence if there else None
