"""Compacts the log of events: appends every old living object again, then trims the records before the history window.

Nothing is dropped by age alone. Records older than the history window may be trimmed once every living object has a
later record; objects that did not change for so long are therefore appended again, byte for byte, before the trim. A
reader that begins at the first remaining record still receives every living object, and needs no checkpoint. The last
re-appended record carries a trim marker, because otherwise a log that lost its beginning would look like a trimmed one
(`shared.eventlog.trim_marker`). The order (append, check, trim) makes a crash between any two steps harmless.
"""

from __future__ import annotations

import logging

from services.ingestor.log.chain_position import ChainPosition
from services.ingestor.settings import HISTORY, HISTORY_SLACK
from shared.errors import MeshlogError
from shared.eventlog.protocol import HEADER_BEGINS, HEADER_KEPT, MAX_BATCH, Draft, EventLog, Record
from shared.eventlog.stream_spec import matches
from shared.records import events

_log = logging.getLogger(__name__)


class Compactor:
    """Compacts one scope of the log; used by the leader alone."""

    def __init__(self, log: EventLog, scope: str, *, window: float = HISTORY, slack: int = HISTORY_SLACK) -> None:
        """`window`: seconds of history that are kept. `slack`: records up to which nothing is done."""
        self._log = log
        self._scope = scope
        self._window = window
        self._slack = slack
        self.trimmed_to = 0
        """Sequence of the first kept record; 0: nothing was trimmed yet."""

    async def run(self, position: ChainPosition) -> None:
        """Compact if there is enough to trim. Raises as `EventLog.append` does; the steps done by then are harmless."""
        cut = await self._cut()
        if cut is None:
            return
        renewed = await self._renew(position, cut)
        if not renewed:
            return
        stale = [
            record.subject
            for record in await self._log.last_per_subject(self._scope)
            if record.sequence < cut and record.epoch == position.tip.epoch and _lives(record)
        ]
        if stale:
            _log.error("nothing is trimmed: %d objects live in the old part only", len(stale))
            return
        await self._log.trim(before=cut, subjects=self._scope)
        position.trimmed(cut)
        self.trimmed_to = cut
        _log.info("trimmed", extra={"before": cut, "appended_again": renewed})

    async def _cut(self) -> int | None:
        """Returns the first sequence within the window, or None if too few records lie before it.

        Ages are differences of the log's times.
        """
        first, _ = await self._log.bounds()
        newest = await self._log.last(self._scope)
        if newest is None or newest.sequence - first < self._slack:
            return None
        last = newest.sequence
        horizon = newest.time - int(self._window * 1e9)
        low, high = first, last
        while low < high:
            middle = (low + high) // 2
            record = await self._log.at(middle)
            if record is not None and record.time <= horizon:
                low = max(middle, record.sequence) + 1
            else:
                high = middle
        return await self._first_in_scope(low) if low - first >= self._slack // 2 else None

    async def _first_in_scope(self, sequence: int) -> int | None:
        """Returns the first sequence of this scope from `sequence` on: other clusters may share the stream."""
        record = await self._log.at(sequence)
        while record is not None and not matches(self._scope, record.subject):
            record = await self._log.at(record.sequence + 1)
        return record.sequence if record is not None else None

    async def _renew(self, position: ChainPosition, cut: int) -> int:
        """Append again living objects whose record lies before `cut`, with the trim marker; returns their number."""
        newest = [one for one in await self._log.last_per_subject(self._scope) if one.epoch == position.tip.epoch]
        # One record must carry the trim marker, so the newest is appended again if no other must be.
        old = [record for record in newest if record.sequence < cut and _lives(record)] or newest[-1:]
        for start in range(0, len(old), MAX_BATCH):
            batch = old[start : start + MAX_BATCH]
            drafts = [
                Draft(
                    subject=record.subject,
                    payload=record.payload,
                    message_id=f"kept/{position.tip.epoch}/{record.sequence}",
                    headers=_kept(record, begins=cut if record is old[-1] else 0),
                )
                for record in batch
            ]
            position.tip = await self._log.append(drafts, scope=self._scope, after=position.tip)
            first = position.tip.sequence - len(batch) + 1
            for offset, record in enumerate(batch):
                position.index.reappended(events.read(record).key, first + offset)
        return len(old)


def _kept(record: Record, *, begins: int) -> dict[str, str]:
    headers = {HEADER_KEPT: str(record.sequence)}
    return {**headers, HEADER_BEGINS: str(begins)} if begins else headers


def _lives(record: Record) -> bool:
    try:
        return events.read(record).operation == events.APPLIED
    except MeshlogError:
        # An unreadable record contains no object that could be lost.
        return False
