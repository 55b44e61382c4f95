"""How the log of events stays finite: what lives is said again, and only then is the old part forgotten.

Nothing is ever dropped by age. Records older than the history window may be forgotten once every object that lives has
a record behind them; objects that did not change for so long are therefore written again, byte for byte, before the
trim. So whoever begins to read at the first record that is left still learns every living object, and needs no
checkpoint of anybody's. The last of what is said again also says where the log may begin from then on, or a log that
lost its beginning would pass for a trimmed one (`shared.eventlog.trim_marker`). The order (write, look, trim) makes a
crash between any two of them harmless.
"""

from __future__ import annotations

import logging

from services.ingestor.log.chain_position import Standing
from shared.errors import MeshlogError
from shared.eventlog.protocol import HEADER_BEGINS, HEADER_KEPT, MAX_BATCH, Draft, EventLog, Record
from shared.eventlog.stream_spec import matches
from shared.records import events

_log = logging.getLogger(__name__)

WINDOW = 7 * 86400.0
SLACK = 20_000


class Retention:
    """Trims one scope of the log; used by the leader alone."""

    def __init__(self, log: EventLog, scope: str, *, window: float = WINDOW, slack: int = SLACK) -> None:
        """`window`: seconds of history that are kept. `slack`: records up to which nothing is done at all."""
        self._log = log
        self._scope = scope
        self._window = window
        self._slack = slack
        self.trimmed_to = 0
        """Sequence of the first record that is kept; 0: nothing was trimmed yet."""

    async def run(self, standing: Standing) -> None:
        """Trim if there is enough to trim. Raises as `EventLog.append` does; what was done by then is no harm."""
        cut = await self._cut()
        if cut is None:
            return
        renewed = await self._renew(standing, cut)
        if not renewed:
            return
        stale = [
            record.subject
            for record in await self._log.last_per_subject(self._scope)
            if record.sequence < cut and record.epoch == standing.tip.epoch and _lives(record)
        ]
        if stale:
            _log.error("nothing is trimmed: %d objects live in the old part only", len(stale))
            return
        await self._log.trim(before=cut, subjects=self._scope)
        standing.trimmed(cut)
        self.trimmed_to = cut
        _log.info("trimmed", extra={"before": cut, "said_again": renewed})

    async def _cut(self) -> int | None:
        """The first sequence within the window, if enough lies before it. Ages are differences of the log's times."""
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
        return await self._own(low) if low - first >= self._slack // 2 else None

    async def _own(self, sequence: int) -> int | None:
        """The first of our records from there on: others may share the stream."""
        record = await self._log.at(sequence)
        while record is not None and not matches(self._scope, record.subject):
            record = await self._log.at(record.sequence + 1)
        return record.sequence if record is not None else None

    async def _renew(self, standing: Standing, cut: int) -> int:
        """Say again what lives and was said before `cut` only, and with it that the log may begin there; how many."""
        newest = [one for one in await self._log.last_per_subject(self._scope) if one.epoch == standing.tip.epoch]
        # Something must carry the mark, so what was said last is said again where nothing else has to be.
        old = [record for record in newest if record.sequence < cut and _lives(record)] or newest[-1:]
        for start in range(0, len(old), MAX_BATCH):
            batch = old[start : start + MAX_BATCH]
            drafts = [
                Draft(
                    subject=record.subject,
                    payload=record.payload,
                    message_id=f"kept/{standing.tip.epoch}/{record.sequence}",
                    headers=_kept(record, begins=cut if record is old[-1] else 0),
                )
                for record in batch
            ]
            standing.tip = await self._log.append(drafts, scope=self._scope, after=standing.tip)
            first = standing.tip.sequence - len(batch) + 1
            for offset, record in enumerate(batch):
                standing.book.said_again(events.read(record).key, first + offset)
        return len(old)


def _kept(record: Record, *, begins: int) -> dict[str, str]:
    headers = {HEADER_KEPT: str(record.sequence)}
    return {**headers, HEADER_BEGINS: str(begins)} if begins else headers


def _lives(record: Record) -> bool:
    try:
        return events.read(record).operation == events.APPLIED
    except MeshlogError:
        # What cannot be read is no object that anybody could lose.
        return False
