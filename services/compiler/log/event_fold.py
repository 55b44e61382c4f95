"""Folds the event log into the compiler: batches, epochs, broken chains and events of newer builds."""

from __future__ import annotations

import logging
from collections.abc import Callable

from services.compiler.core.compiler import Compiler
from services.compiler.core.pin_filter import refuse_future
from services.compiler.log.counts import PublisherCounts
from services.compiler.log.loop_turns import LoopTurns
from shared.eventlog.chain import ChainVerifier
from shared.eventlog.protocol import ChainBrokenError, EventLog, Record, epoch_records
from shared.records import events
from shared.records.events import Event
from shared.telemetry import traces

_log = logging.getLogger(__name__)

Ready = Callable[[str, bool, str], None]
"""Sets a condition of readiness: its name, whether it holds, and why not."""


class RefoldError(Exception):
    """The folded state is void, since a new epoch begins: read all events again."""


class EventFold:
    """The compiler's state after the events read so far, and whether it may be published."""

    def __init__(
        self, log: EventLog, *, scope: str, compiler: Callable[[], Compiler], ready: Ready, counts: PublisherCounts
    ) -> None:
        """`compiler` makes an empty compiler: each reading from the beginning needs one."""
        self.compiler = compiler()
        self.broken = ""
        """Why the event log is broken; empty if it is not."""
        self.newer = ""
        """Why a newer build is needed; empty if none is. No event is folded from that one on."""
        self.newer_in_beginning = False
        """Whether that event belongs to the list with which its epoch began."""
        self._new_compiler = compiler
        self._log = log
        self._scope = scope
        self._ready = ready
        self._counts = counts
        self._verifier = ChainVerifier()
        self._open_batch: list[Record] = []
        self._missing = 0
        """Records that the beginning of the epoch still lacks."""

    @property
    def whole(self) -> bool:
        """Whether the chain holds and the list with which the epoch began is complete."""
        return not self.broken and not self._missing

    @property
    def publishable(self) -> bool:
        """Whether the state may be published: an incomplete epoch would revoke what no user revoked."""
        return self.whole and not self.newer_in_beginning and self.compiler.version > 0

    @property
    def next_sequence(self) -> int:
        """Sequence from which on to follow the log."""
        return self._verifier.checkpoint.sequence + 1

    async def read_all(self) -> None:
        """Fold every event of the log from its beginning. Raises `LogUnavailableError`."""
        self.compiler = self._new_compiler()
        self._verifier, self.broken, self._open_batch, self._missing = ChainVerifier(), "", [], 0
        self.newer, self.newer_in_beginning = "", False
        folded, turns = 0, LoopTurns()
        async for record in self._log.read(subjects=self._scope):
            await self.fold(record, turns, refolding=True)
            folded += 1
        if not self.broken and self._verifier.headless:
            self.broken = f"the event log lost its beginning: {self._verifier.headless}"
            _log.warning(self.broken)
            self._ready("events", False, self.broken)
        _log.info("read %d events up to %d", folded, self.compiler.version)

    async def fold(self, record: Record, turns: LoopTurns, *, refolding: bool) -> None:
        """Fold one record; the events of an atomic batch are folded when the batch is complete.

        Raises `RefoldError` or `ChainBrokenError` unless `refolding`: then all events must be read again.
        """
        try:
            starts = self._verifier.fold(record)
        except ChainBrokenError as error:
            # Nothing is published after a gap: a missing record may have revoked a right. Proxies keep their
            # configuration until the ingestor begins a new epoch. But first all events are read again: a reader that
            # was suspended while the log was trimmed sees a gap where there is none.
            if not refolding:
                raise
            _log.warning("the event log is broken: %s", error)
            self.broken = str(error)
            self._ready("events", False, self.broken)
            self._verifier = ChainVerifier()
            try:
                starts = self._verifier.fold(record)
            except ChainBrokenError:
                # The record is invalid by itself: continue with the next one.
                self._open_batch = []
                return
        if starts:
            self._begin_epoch(record, refolding=refolding)
        within_beginning = self._missing > 0
        self._missing = max(0, self._missing - 1)
        self._open_batch.append(record)
        if record.ends_batch:
            batch, self._open_batch = self._open_batch, []
            await self._fold_batch(batch, turns, within_beginning=within_beginning)

    def _begin_epoch(self, record: Record, *, refolding: bool) -> None:
        if not refolding:
            raise RefoldError(f"epoch {record.epoch} begins at {record.sequence}")
        # Earlier records are void: objects that disappeared while the log was broken must not stay in the state.
        if self.compiler.version:
            self.compiler = self._new_compiler()
        self.broken, self._open_batch, self.newer, self.newer_in_beginning = "", [], "", False
        self._missing = epoch_records(record)

    async def _fold_batch(self, batch: list[Record], turns: LoopTurns, *, within_beginning: bool) -> None:
        """Fold an atomic batch; neither it nor later ones if this build cannot decode all of it."""
        if self.newer:
            return
        readable: list[tuple[Event, Record]] = []
        for record in batch:
            try:
                event = events.read(record)
                refuse_future(event)
            except events.FutureEventError as error:
                self.newer, self.newer_in_beginning = error.state(record.sequence), within_beginning
                code = {"code": error.code}
                _log.error("%s; nothing after event %d is in force", self.newer, self.compiler.version, extra=code)
                self._ready("events", False, self.newer)
                return
            except events.CorruptEventError as error:
                self._counts.skipped += 1
                _log.error("event %d is skipped: %s", record.sequence, error)
                continue
            readable.append((event, record))
            await turns.pause()
        self._counts.events += len(batch)
        for event, record in readable:
            traceparent = traces.extract(record.headers)
            self.compiler.fold(event, record.sequence, epoch=record.epoch, traceparent=traceparent)
            await turns.pause()
