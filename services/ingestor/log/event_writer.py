"""The writer of a cluster's events: receives observations, appends atomic batches, keeps the log's chain valid.

Observations that arrive while one round is appended form the next round. A round is decided against the index of the
log's objects, appended after the checkpoint that the index represents, and decided again from the log's records if the
log refuses it. This, and not the lease, makes two concurrent ingestors harmless. While the log is away nothing is
lost: the round is kept, the queue fills, and reflectors wait.

A log with a broken chain gets a new epoch: every kind is listed again and every living object is appended anew (in one
atomic batch if a thousand records suffice), because a new epoch voids all earlier records for readers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

import msgspec

from services.ingestor.core.change_set_assembler import ChangeSetAssembler, WriteGroup
from services.ingestor.core.decide import Reflectors, RoundDecider, WriterCounts
from services.ingestor.core.object_index import ObjectIndex
from services.ingestor.core.observations import KindAbsent, KindListed, ObjectUpdated, Observation
from services.ingestor.core.standby_buffer import StandbyBuffer
from services.ingestor.log.chain_position import LOG_UNAVAILABLE, ChainPosition
from services.ingestor.log.compaction import Compactor
from services.ingestor.log.inspector import LogInspector
from services.ingestor.log.leadership import Leadership, LeadershipGate, SoleLeader
from services.ingestor.log.round_appender import Identifiers, RoundAppender
from services.ingestor.log.witness import NoWitness, Witness
from services.ingestor.log.write_queue import WriteQueue
from services.ingestor.settings import GATHER, PANIC, QUEUE
from shared.eventlog.protocol import (
    BatchAbandonedError,
    Checkpoint,
    DuplicateError,
    EventLog,
    LogFullError,
    LogUnavailableError,
    StaleWriterError,
)
from shared.records.subjects import Streams

_log = logging.getLogger(__name__)


class WriterPolicy(msgspec.Struct, frozen=True):
    """Limits and intervals of a writer; intervals in seconds."""

    queue: int = QUEUE
    """Observations that may wait."""
    panic: float = PANIC
    """See `compare`."""
    gather: float = GATHER
    """At start: how long the first round waits for all kinds, so that they reach proxies in one version."""
    gather_epoch: float = 60.0
    """Between warnings while a new epoch, which voids earlier records, waits for all kinds."""
    retry: float = 0.2
    """Between attempts while the log is away."""
    full: float = 1.0
    """Between attempts while the log is full."""
    glance: float = 5.0
    """Between looks at the log's tip, which detect late records of a former leader."""
    scrub: float = 600.0
    """Between readings of the whole chain."""
    stand_by: float = 5.0
    """As a standby: between readings of the leader's records."""
    warming: float = 0.5
    """The same until the log contains this replica's lists; it is not ready before."""


class EventWriter:
    """Appends the observations of one cluster. Call `put` from any task of the loop, `run` once."""

    def __init__(
        self,
        log: EventLog,
        *,
        cluster: str,
        streams: Streams,
        kinds: Iterable[str],
        clock: Callable[[], float],
        ids: Identifiers,
        reflectors: Reflectors,
        leadership: Leadership | None = None,
        witness: Witness | None = None,
        policy: WriterPolicy | None = None,
        change_sets: ChangeSetAssembler | None = None,
        compactor: Compactor | None = None,
    ) -> None:
        """`kinds`: names of all kinds. Without `leadership` it always leads; call `wake` when the lease changes."""
        policy = policy or WriterPolicy()
        witness = witness or NoWitness()
        self.counts = WriterCounts()
        self.settled: set[str] = set()
        """Kinds whose first list is in the log, or that the cluster does not serve."""
        self.progress = asyncio.Event()
        """Set after each round; its waiter clears it."""
        self.full = False
        """Whether the log refuses appends because it is full."""
        self._policy = policy
        self._position = position = ChainPosition(
            log, streams.cluster_scope(cluster), retry=policy.retry, witness=witness
        )
        self._gate = LeadershipGate(leadership or SoleLeader(), position)
        self._kinds = frozenset(kinds)
        self._clock = clock
        self._reflectors = reflectors
        self._decider = RoundDecider(
            position.index,
            self.counts,
            reflectors=reflectors,
            new_traceparent=ids.new_traceparent,
            panic=policy.panic,
        )
        self._appender = RoundAppender(
            log, position, cluster=cluster, streams=streams, ids=ids, witness=witness, counts=self.counts
        )
        self._queue = WriteQueue(
            size=policy.queue, sets=change_sets or ChangeSetAssembler(), clock=clock, last_set=self._last_set
        )
        self._inspector = LogInspector(
            log,
            position,
            compactor or Compactor(log, position.scope),
            clock=clock,
            tip_interval=policy.glance,
            chain_interval=policy.scrub,
        )
        self._standby = StandbyBuffer()
        self._refused = ""

    @property
    def index(self) -> ObjectIndex:
        """The log's objects."""
        return self._position.index

    @property
    def newest(self) -> int:
        """Sequence of the newest event that this process has seen, whichever replica appended it."""
        return self._position.tip.sequence

    @property
    def trouble(self) -> str:
        """Why nothing can be appended now; empty if it can."""
        return self._position.newer or self._refused or self._position.trouble

    @property
    def newer(self) -> str:
        """Why the log needs a newer build; empty if it does not."""
        return self._position.newer

    async def put(self, observation: Observation) -> None:
        """Queue an observation; waits while the queue is full."""
        await self._queue.put(observation)

    def wake(self) -> None:
        """Check again whether to lead."""
        self._queue.wake()

    async def run(self) -> None:
        """Append for ever."""
        await self._position.recover()
        self._inspector.start()
        groups = await self._gather(None if self._position.broken else self._policy.gather)
        self._gate.campaign()
        while True:
            if not self._gate.may_lead():
                groups = await self._stand_by(groups)
            if groups:
                await self._write(groups)
            self._relist_outdated()
            groups = await self._queue.drain(self._inspector.due)
            if self._clock() >= self._inspector.due:
                groups = [*groups, *await self._inspect()]

    # The next round

    async def _stand_by(self, groups: Sequence[WriteGroup]) -> list[WriteGroup]:
        """Buffer observations until this replica leads; returns those that the log does not contain by then."""
        standby, position = self._standby, self._position
        for group in groups:
            for observation in group.observations:
                standby.keep(observation)
        # The new leader reports refusals of the log. `position.trouble` shows whether the log can be read.
        self._refused, self.full = "", False
        due = self._clock()
        while not await self._takes_over():
            if self._clock() >= due:
                warm = self.settled >= self._kinds
                due = self._clock() + (self._policy.stand_by if warm else self._policy.warming)
                await position.catch_up(position.tip)
                self._relist_outdated()
                if not position.broken and not position.newer:
                    self.settled |= standby.forget_written(self.index)
                    self.progress.set()
            observation = await self._queue.next(due)
            if observation is not None:
                standby.keep(observation)
            if isinstance(observation, KindAbsent):
                self.settled.add(observation.kind)
        if position.missing and not position.broken:
            position.abandon_epoch()
        observations = standby.take()
        _log.info("leading", extra={"facts": len(observations), "tip": position.tip.sequence})
        if position.broken:
            return [WriteGroup(tuple(observations)), *await self._relist_all()]
        return self._queue.sort(observations)

    async def _takes_over(self) -> bool:
        """Whether this replica leads, and has read the records of the leader before it."""
        if not self._gate.may_lead():
            return False
        await self._position.catch_up(self._position.tip)
        self._relist_outdated()
        return self._gate.may_lead()

    async def _gather(self, seconds: float | None) -> list[WriteGroup]:
        return await self._queue.gather(self._kinds, seconds, warn_every=self._policy.gather_epoch)

    def _last_set(self, observation: ObjectUpdated) -> str:
        known = self.index.get(observation.object.kind, observation.object.name)
        return known.change_set if known else ""

    # Appending a round

    async def _write(self, groups: Sequence[WriteGroup]) -> None:
        for group in groups:
            self.counts.received += len(group.observations)
            if group.change_set:
                self.counts.sets += 1
                if not group.complete:
                    self.counts.sets_incomplete += 1
                    _log.warning("a change set is incomplete", extra={"change_set": group.change_set})
        while True:
            start, before = self._position.tip, msgspec.structs.replace(self.counts)
            try:
                await self._attempt(groups)
            except (StaleWriterError, DuplicateError, LogUnavailableError) as error:
                self.counts.undo_decisions(before)
                self.index.undo_round()
                groups = await self._read_again(groups, start, error)
                if not self._gate.may_lead():
                    # Another replica took the lease while the log was away, and may have appended newer state.
                    groups = await self._stand_by(groups)
                continue
            self._finish_round(groups)
            return

    async def _attempt(self, groups: Sequence[WriteGroup]) -> None:
        if self._position.broken:
            # A new epoch contains every living object, including those in the readable part of the old epoch.
            self.index.clear()
        await self._appender.append([unit for group in groups for unit in self._decider.decide(group)])

    def _finish_round(self, groups: Sequence[WriteGroup]) -> None:
        self.index.commit_round()
        self._position.trouble = self._refused = ""
        self.full = False
        for group in groups:
            self.settled.update(
                observation.kind
                for observation in group.observations
                if isinstance(observation, KindListed | KindAbsent)
            )
        self.progress.set()

    # When the log refuses, is away or is broken

    async def _read_again(
        self, groups: Sequence[WriteGroup], start: Checkpoint, error: Exception
    ) -> Sequence[WriteGroup]:
        """Read the log after a failed append; returns the groups of the next attempt."""
        self.counts.refused += 1
        self.counts.abandoned += isinstance(error, BatchAbandonedError)
        if isinstance(error, LogUnavailableError):
            self._report_refusal(error, len(groups))
            # The log may be readable all the same (a full disk): without a delay this would be a tight loop.
            await asyncio.sleep(self._policy.full if self.full else self._policy.retry)
            # Records may have been lost while the log was away.
            self._inspector.hasten()
        moved = await self._position.catch_up(start)
        if isinstance(error, DuplicateError) and not moved:
            # The log remembers the message id but has lost the record.
            self._appender.renew_message_ids()
        self._relist_outdated()
        self._abandon_foreign_epoch()
        if not self._position.broken or self._position.newer:
            return groups
        return [*groups, *await self._relist_all()]

    def _report_refusal(self, error: LogUnavailableError, groups: int) -> None:
        """Log that the log takes no records now, and keep it as `trouble`; the log may be readable."""
        self.full = isinstance(error, LogFullError)
        why = str(error) if self.full else LOG_UNAVAILABLE
        if self._refused != why:
            _log.log(
                logging.ERROR if self.full else logging.WARNING,
                "%s; the round is kept",
                why,
                extra={"code": error.code, "records": groups},
            )
        self._refused = why

    def _abandon_foreign_epoch(self) -> None:
        """Abandon another leader's unfinished epoch.

        It declares its own number of records: appending ours would complete it early.
        """
        position = self._position
        unfinished = position.missing and not position.broken and not self._appender.began(position.tip.epoch)
        if unfinished and self._gate.may_lead():
            position.abandon_epoch()

    async def _relist_all(self) -> list[WriteGroup]:
        """List every kind again for a new epoch, which appends all of them together."""
        self._decider.forget_suspicions()
        for kind in sorted(self._kinds):
            self._reflectors.relist(kind, confirming=False)
        return await self._gather(None)

    async def _inspect(self) -> list[WriteGroup]:
        """Inspect the log; returns the lists of all kinds if a new epoch must begin.

        Observations from before these lists must go ahead of them: an epoch without deletions would take them for new.
        """
        if not await self._inspector.inspect():
            return []
        self._relist_outdated()
        self._abandon_foreign_epoch()
        return await self._relist_all() if self._position.broken and not self._position.newer else []

    def _relist_outdated(self) -> None:
        """List kinds again of which a lagging writer appended older state, so that the newer state is appended."""
        for kind in sorted(self._position.outdated):
            _log.warning("another writer appended older state, listing again", extra={"kind": kind})
            self._reflectors.relist(kind, confirming=False)
        self._position.outdated.clear()
