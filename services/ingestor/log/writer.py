"""The one writer of a cluster's events: facts in, atomic batches out, and the chain of the log kept true.

What queues up while one round is written is the next round. A round is decided against the book, written with the
checkpoint that the book stands for, and decided again from the log's own words whenever the log refuses it: that,
and not a lease, is what makes two ingestors at once harmless. While the log is away nothing is lost: the round is
kept, the queue fills, and reflectors wait.

A log whose chain is broken gets a new epoch: every kind is listed again and everything that lives is written anew
(one atomic batch where a thousand records suffice), because to a reader a new epoch voids what came before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence

import msgspec

from services.ingestor.core.change_sets import ChangeSets, Group
from services.ingestor.core.decide import Counts, Verdicts
from services.ingestor.core.diff import PANIC, Applied, Change
from services.ingestor.core.object_index import Book
from services.ingestor.core.observations import Absent, Fact, Listed, Observed
from services.ingestor.core.records import draft, packed
from services.ingestor.core.standby_buffer import Standby
from services.ingestor.log.chain_position import Standing, Witness
from services.ingestor.log.compaction import Retention
from services.ingestor.log.epoch_carryover import Carried, nothing
from services.ingestor.log.write_queue import Inbox
from shared.eventlog import epoch as epochs
from shared.eventlog.protocol import (
    HEADER_EPOCH_RECORDS,
    BatchAbandonedError,
    Checkpoint,
    Draft,
    DuplicateError,
    EventLog,
    LogFullError,
    LogUnavailableError,
    StaleWriterError,
)
from shared.eventlog.trim_marker import with_marks
from shared.records.subjects import Streams
from shared.records.withheld import said

_log = logging.getLogger(__name__)


class Patience(msgspec.Struct, frozen=True):
    """Seconds."""

    gather: float = 5.0
    """At start: how long the first round waits for all kinds, so that they reach proxies in one version."""
    gather_epoch: float = 60.0
    """Between complaints when a new epoch, which voids what came before, waits for all kinds."""
    retry: float = 0.2
    """Between attempts while the log is away."""
    full: float = 1.0
    """The same while it is full."""
    glance: float = 5.0
    """Between looks at the log's tip: what a deposed leader still wrote is noticed so."""
    scrub: float = 600.0
    """Between readings of the whole chain."""
    stand_by: float = 5.0
    """As a standby: between looks at what the leader has written."""
    warming: float = 0.5
    """The same until it stands in the log what this one has listed: it is not ready before."""


class Writer:
    """Writes what reflectors say about one cluster. `put` from anywhere in the loop; `run` once."""

    def __init__(
        self,
        log: EventLog,
        *,
        cluster: str,
        streams: Streams,
        kinds: Iterable[str],
        clock: Callable[[], float],
        new_id: Callable[[], str],
        new_traceparent: Callable[[], str],
        doubt: Callable[[str, bool], None],
        queue: int = 1000,
        patience: Patience | None = None,
        change_sets: ChangeSets | None = None,
        leads: Callable[[], bool] = lambda: True,
        warmed: Callable[[], None] = lambda: None,
        unfit: Callable[[], None] = lambda: None,
        witness: Witness | None = None,
        retention: Retention | None = None,
        panic: float = PANIC,
        carried: Carried = nothing,
    ) -> None:
        """`new_id` makes epoch ids. `doubt(kind, confirming)` asks the reflector of a kind to list again.

        `leads`: whether to write; a standby keeps what it learns. Call `wake` when that changes. `warmed` is called
        when this writer could lead, `unfit` when it could no more: the log holds what only a newer build can read.
        `witness` tells what was compiled already: a log that ends before it went back.
        `carried`: what a new epoch says besides what Kubernetes tells. `panic`: see `compare`.
        """
        self.counts = Counts()
        self.settled: set[str] = set()
        """Kinds whose first list stands in the log (or that the cluster does not serve)."""
        self.progress = asyncio.Event()
        """Set after each round; whoever waits for it clears it."""
        self._log = log
        self._cluster = cluster
        self._streams = streams
        self._scope = streams.cluster_scope(cluster)
        self._patience = patience or Patience()
        self._standing = Standing(log, self._scope, retry=self._patience.retry, witness=witness)
        self._retention = retention or Retention(log, self._scope)
        self._kinds = frozenset(kinds)
        self._clock = clock
        self._new_id = new_id
        self._doubt = doubt
        self._verdicts = Verdicts(self.book, self.counts, doubt=doubt, new_traceparent=new_traceparent, panic=panic)
        self._inbox = Inbox(size=queue, sets=change_sets or ChangeSets(), clock=clock, last_set=self._last_set)
        self._carried = carried
        self._to_carry: list[Draft] = []
        self._leads = leads
        self._warmed = warmed
        self._unfit = unfit
        self._aside = False
        self._standby = Standby()
        self._refused = ""
        self._salt = ""
        self._begun = ""
        """The newest epoch that this writer began, or tried to."""
        self.full = False
        """Whether the log takes no more."""
        self._next_glance = 0.0
        self._next_scrub = 0.0

    @property
    def book(self) -> Book:
        """What the log holds."""
        return self._standing.book

    @property
    def newest(self) -> int:
        """Sequence of the newest event, as far as this process has seen; the leader wrote it."""
        return self._standing.tip.sequence

    @property
    def trouble(self) -> str:
        """Why nothing can be written now; empty while all is well."""
        return self._standing.newer or self._refused or self._standing.trouble

    @property
    def newer(self) -> str:
        """What a newer build is needed for; empty: nothing."""
        return self._standing.newer

    async def put(self, fact: Fact) -> None:
        """Hand over a fact; waits while the writer is behind."""
        await self._inbox.put(fact)

    def wake(self) -> None:
        """Look again whether to lead."""
        self._inbox.wake()

    async def run(self) -> None:
        """Write for ever."""
        await self._standing.recover()
        now = self._clock()
        self._next_glance, self._next_scrub = now + self._patience.glance, now + self._patience.scrub
        groups = await self._gather(None if self._standing.broken else self._patience.gather)
        if not self._standing.newer:
            self._warmed()
        while True:
            if not self._may_lead():
                groups = await self._stand_by(groups)
            if groups:
                await self._write(groups)
            self._speak_up()
            groups = await self._inbox.drain(self._next_glance)
            if self._clock() >= self._next_glance:
                groups = [*groups, *await self._glance()]

    # What to write next

    def _may_lead(self) -> bool:
        """Whether to write. What the log says is not known from the first record on that only a newer build reads."""
        aside = bool(self._standing.newer)
        if aside != self._aside:
            self._aside = aside
            (self._unfit if aside else self._warmed)()
        return not aside and self._leads()

    async def _stand_by(self, groups: Sequence[Group]) -> list[Group]:
        """Keep facts until this writer leads; what the log does not say by then is to be written."""
        standby, standing = self._standby, self._standing
        for group in groups:
            for fact in group.facts:
                standby.keep(fact)
        # What the log refused is for the new leader to say; whether it can be read shows in `standing.trouble`.
        self._refused, self.full = "", False
        due = self._clock()
        while not await self._takes_over():
            if self._clock() >= due:
                warm = self.settled >= self._kinds
                due = self._clock() + (self._patience.stand_by if warm else self._patience.warming)
                await standing.catch_up(standing.tip)
                self._speak_up()
                if not standing.broken and not standing.newer:
                    self.settled |= standby.forget_written(self.book)
                    self.progress.set()
            fact = await self._inbox.next(due)
            if fact is not None:
                standby.keep(fact)
            if isinstance(fact, Absent):
                self.settled.add(fact.kind)
        if standing.missing and not standing.broken:
            standing.give_up_epoch()
        facts = standby.take()
        _log.info("leading", extra={"facts": len(facts), "tip": standing.tip.sequence})
        if standing.broken:
            return [Group(tuple(facts)), *await self._relist()]
        return self._inbox.sort(facts)

    async def _takes_over(self) -> bool:
        """Whether this writer leads now, and knows what the leader before it wrote."""
        if not self._may_lead():
            return False
        await self._standing.catch_up(self._standing.tip)
        self._speak_up()
        return self._may_lead()

    async def _gather(self, seconds: float | None) -> list[Group]:
        return await self._inbox.gather(self._kinds, seconds, complain=self._patience.gather_epoch)

    def _last_set(self, fact: Observed) -> str:
        known = self.book.get(fact.object.kind, fact.object.name)
        return known.change_set if known else ""

    # Writing a round

    async def _write(self, groups: Sequence[Group]) -> None:
        for group in groups:
            self.counts.received += len(group.facts)
            if group.change_set:
                self.counts.sets += 1
                if not group.complete:
                    self.counts.sets_incomplete += 1
                    _log.warning("a change set is incomplete", extra={"change_set": group.change_set})
        while True:
            start, before = self._standing.tip, msgspec.structs.replace(self.counts)
            try:
                await self._attempt(groups)
            except (StaleWriterError, DuplicateError, LogUnavailableError) as error:
                self.counts.undo_decisions(before)
                self.book.undo()
                groups = await self._reread(groups, start, error)
                if not self._may_lead():
                    # Deposed while the log was away: another has written on, and this round may be the past by now.
                    groups = await self._stand_by(groups)
                continue
            self.book.keep()
            self._standing.trouble = self._refused = ""
            self.full = False
            for group in groups:
                self.settled.update(fact.kind for fact in group.facts if isinstance(fact, Listed | Absent))
            self.progress.set()
            return

    async def _attempt(self, groups: Sequence[Group]) -> None:
        standing = self._standing
        if standing.broken:
            # A new epoch says everything that lives, also what stood in the part of the old one that could be read.
            self.book.clear()
        units = [unit for group in groups for unit in self._verdicts.decide(group)]
        batches = packed(units)
        for batch in batches:
            epoch = with_marks(self._later_id()) if standing.broken or not standing.tip.epoch else ""
            if standing.broken:
                await standing.begin_anew()
            turn = f"{epoch or standing.tip.epoch}{self._salt}"
            drafts = [
                draft(change, trace, cluster=self._cluster, streams=self._streams, turn=turn) for change, trace in batch
            ]
            if epoch:
                self._begun = epoch
                self._to_carry = await self._carried(epoch)
                total = sum(map(len, batches)) + len(self._to_carry)
                headers = {**drafts[0].headers, HEADER_EPOCH_RECORDS: str(total)}
                drafts[0] = msgspec.structs.replace(drafts[0], headers=headers)
            standing.tip = await self._log.append(drafts, scope=self._scope, after=standing.tip, epoch=epoch)
            if epoch:
                standing.broken = False
                standing.latest = epochs.latest_of(standing.latest, epoch)
                standing.missing = sum(map(len, batches)) + len(self._to_carry)
                self.counts.epochs += 1
                _log.info("a new epoch begins", extra={"epoch": epoch, "records": len(drafts)})
            standing.missing = max(0, standing.missing - len(batch))
            first = standing.tip.sequence - len(batch) + 1
            for offset, (change, _) in enumerate(batch):
                self.book.written(change, first + offset)
                self._name_withheld(change)
            self.counts.written += len(batch)
            self.counts.batches += 1
        await self._carry()

    def _name_withheld(self, change: Change) -> None:
        if isinstance(change, Applied) and change.object.withheld:
            item = change.object
            self.counts.withheld += 1
            code, sentence = said(item.kind, item.withheld, item.why)
            _log.error("%s %s %s", item.kind, item.name, sentence, extra={"code": code})

    def _later_id(self) -> str:
        return epochs.after(self._new_id(), self._standing.latest)

    async def _carry(self) -> None:
        """Say what the epoch that was just begun takes along; nobody compiles it before."""
        if not self._to_carry or self._standing.broken:
            return
        standing = self._standing
        with contextlib.suppress(DuplicateError):  # it stands there already: an acknowledgement was lost
            standing.tip = await self._log.append(self._to_carry, scope=self._scope, after=standing.tip)
            standing.missing = max(0, standing.missing - len(self._to_carry))
        self._to_carry = []

    # When the log refuses, is away or is broken

    async def _reread(self, groups: Sequence[Group], start: Checkpoint, error: Exception) -> Sequence[Group]:
        self.counts.refused += 1
        self.counts.abandoned += isinstance(error, BatchAbandonedError)
        if isinstance(error, LogUnavailableError):
            self._refuse(error, len(groups))
            # It may be read all the same (a full disk): without a pause this would be a loop without one.
            await asyncio.sleep(self._patience.full if self.full else self._patience.retry)
            # Records may have vanished while it was away.
            self._next_glance = self._clock()
        moved = await self._standing.catch_up(start)
        if isinstance(error, DuplicateError) and not moved:
            # Its id was seen, but the record is not there: the log lost it. It must be written under a new id.
            self._salt = self._new_id()
        self._speak_up()
        self._refuse_the_epoch_of_another()
        if not self._standing.broken or self._standing.newer:
            return groups
        return [*groups, *await self._relist()]

    def _refuse(self, error: LogUnavailableError, groups: int) -> None:
        """The log takes nothing now, though it may be read: `trouble` says so until it does."""
        self.full = isinstance(error, LogFullError)
        why = str(error) if self.full else "the log is unavailable"
        if self._refused != why:
            _log.log(
                logging.ERROR if self.full else logging.WARNING,
                "%s; the round is kept",
                why,
                extra={"code": error.code, "records": groups},
            )
        self._refused = why

    def _refuse_the_epoch_of_another(self) -> None:
        """What another leader has begun is announced by its view: filled up with ours, it would end in its midst."""
        standing = self._standing
        unfinished = standing.missing and not standing.broken and standing.tip.epoch != self._begun
        if unfinished and self._may_lead():
            standing.give_up_epoch()

    async def _relist(self) -> list[Group]:
        """Begin a new epoch: what lives is listed again and written together."""
        self._verdicts.forget_suspicions()
        for kind in sorted(self._kinds):
            self._doubt(kind, False)
        return await self._gather(None)

    async def _glance(self) -> list[Group]:
        """Look after the log while nothing happens: it may have moved on, gone back or been damaged.

        What lives, if a new epoch must begin: news from before these lists goes ahead of them, for to an epoch that
        knows no deletions yet it would be news.
        """
        now = self._clock()
        self._next_glance = now + self._patience.glance
        try:
            if now >= self._next_scrub or await self._standing.vanished():
                self._next_scrub = now + self._patience.scrub
                await self._standing.read_all()
                if not self._standing.broken and not self._standing.newer:
                    await self._retention.run(self._standing)
            elif await self._log.tip(self._scope) != self._standing.tip:
                await self._standing.catch_up(self._standing.tip)
        except LogUnavailableError as error:
            self._standing.trouble = str(error) if isinstance(error, LogFullError) else "the log is unavailable"
            return []
        except (StaleWriterError, DuplicateError):
            # Another writer is at work: the next round reads what it wrote.
            await self._standing.catch_up(self._standing.tip)
        self._standing.trouble = ""
        self._speak_up()
        self._refuse_the_epoch_of_another()
        return await self._relist() if self._standing.broken and not self._standing.newer else []

    def _speak_up(self) -> None:
        """Another writer, late, wrote what is older than what we knew: list again, and say it."""
        for kind in sorted(self._standing.outdated):
            _log.warning("the log fell behind by another writer's hand, listing again", extra={"kind": kind})
            self._doubt(kind, False)
        self._standing.outdated.clear()
