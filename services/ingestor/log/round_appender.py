"""Appends decided rounds to the log as atomic batches, and begins new epochs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence

import msgspec

from services.ingestor.core.decide import WriterCounts
from services.ingestor.core.log_diff import AppliedChange, Change
from services.ingestor.core.records import TracedChange, draft, packed
from services.ingestor.log.chain_position import ChainPosition
from services.ingestor.log.witness import Witness
from shared.eventlog import epoch as epochs
from shared.eventlog.protocol import HEADER_EPOCH_RECORDS, Draft, DuplicateError, EventLog
from shared.eventlog.trim_marker import with_marks
from shared.records.subjects import Streams
from shared.records.withheld import said

_log = logging.getLogger(__name__)


class Identifiers(msgspec.Struct, frozen=True):
    """Sources of new identifiers."""

    new_epoch: Callable[[], str]
    """Returns an epoch id."""
    new_traceparent: Callable[[], str]
    """Begins a trace; returns its `traceparent`."""


class RoundAppender:
    """Appends after the tip of a `ChainPosition`, and moves the tip on."""

    def __init__(
        self,
        log: EventLog,
        position: ChainPosition,
        *,
        cluster: str,
        streams: Streams,
        ids: Identifiers,
        witness: Witness,
        counts: WriterCounts,
    ) -> None:
        self._log = log
        self._position = position
        self._cluster = cluster
        self._streams = streams
        self._scope = streams.cluster_scope(cluster)
        self._ids = ids
        self._witness = witness
        self._counts = counts
        self._carried_over: list[Draft] = []
        self._salt = ""
        self._begun = ""
        """The newest epoch that this writer began, or tried to begin."""

    def began(self, epoch: str) -> bool:
        """Whether this writer began an epoch."""
        return epoch == self._begun

    def renew_message_ids(self) -> None:
        """Use new message ids: the log lost a record whose id it still remembers."""
        self._salt = self._ids.new_epoch()

    async def append(self, units: Sequence[list[TracedChange]]) -> None:
        """Append a round; begins a new epoch if the log is broken or empty. Raises as `EventLog.append` does."""
        position = self._position
        batches = packed(units)
        for batch in batches:
            epoch = self._new_epoch() if position.broken or not position.tip.epoch else ""
            if position.broken:
                await position.prepare_epoch()
            turn = f"{epoch or position.tip.epoch}{self._salt}"
            drafts = [
                draft(change, trace, cluster=self._cluster, streams=self._streams, turn=turn) for change, trace in batch
            ]
            if epoch:
                self._begun = epoch
                self._carried_over = await self._witness.carried_over(epoch)
                total = sum(map(len, batches)) + len(self._carried_over)
                headers = {**drafts[0].headers, HEADER_EPOCH_RECORDS: str(total)}
                drafts[0] = msgspec.structs.replace(drafts[0], headers=headers)
            position.tip = await self._log.append(drafts, scope=self._scope, after=position.tip, epoch=epoch)
            if epoch:
                position.broken = False
                position.latest = epochs.latest_of(position.latest, epoch)
                position.missing = sum(map(len, batches)) + len(self._carried_over)
                self._counts.epochs += 1
                _log.info("a new epoch begins", extra={"epoch": epoch, "records": len(drafts)})
            position.missing = max(0, position.missing - len(batch))
            self._record(batch)
        await self._append_carried_over()

    def _new_epoch(self) -> str:
        return with_marks(epochs.after(self._ids.new_epoch(), self._position.latest))

    def _record(self, batch: Sequence[TracedChange]) -> None:
        """Enter an appended batch into the index and the counters."""
        first = self._position.tip.sequence - len(batch) + 1
        for offset, (change, _) in enumerate(batch):
            self._position.index.appended(change, first + offset)
            self._log_withheld(change)
        self._counts.written += len(batch)
        self._counts.batches += 1

    def _log_withheld(self, change: Change) -> None:
        if isinstance(change, AppliedChange) and change.object.withheld:
            item = change.object
            self._counts.withheld += 1
            code, sentence = said(item.kind, item.withheld, item.why)
            _log.error("%s %s %s", item.kind, item.name, sentence, extra={"code": code})

    async def _append_carried_over(self) -> None:
        """Append the records that the new epoch carries over; until then no compiler uses the epoch."""
        if not self._carried_over or self._position.broken:
            return
        position = self._position
        with contextlib.suppress(DuplicateError):  # the log has them already: an acknowledgement was lost
            position.tip = await self._log.append(self._carried_over, scope=self._scope, after=position.tip)
            position.missing = max(0, position.missing - len(self._carried_over))
        self._carried_over = []
