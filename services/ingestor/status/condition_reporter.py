"""Reports on policy objects: writes conditions into their status, and an event if one turned bad.

Independent of the compile: it evaluates objects whose conditions may have changed, after they have rested, and writes
at a bounded rate, each object at most every few seconds. A failed write has no effect on the mesh. Only the leading
ingestor writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Collection, Sequence

from services.ingestor.core.object_index import ObjectIndex
from services.ingestor.core.observations import (
    KindListed,
    NamespacedName,
    ObjectDeleted,
    ObjectUpdated,
    Observation,
    Projected,
)
from services.ingestor.status.ack_progress import AckProgress
from services.ingestor.status.conditions import turned_bad
from services.ingestor.status.due_queue import DueQueue
from services.ingestor.status.object_events import ObjectEventWriter
from services.ingestor.status.reports import (
    ConditionReport,
    Key,
    ObjectEvent,
    Outcome,
    PinnedForms,
    ReportPace,
    RetryLater,
)
from services.ingestor.status.status_evaluator import Pending, StatusEvaluator, comparable, conditions_in
from services.ingestor.status.write_rate import WriteRate

_COMPILE_INTERVAL = 0.5
"""Seconds between checks whether the compiler has read the events of waiting objects."""
_COLLECT_INTERVAL = 0.1
"""Seconds between collections of changed objects while statuses are written."""
_BATCH = 200
"""Objects that are evaluated without a pause, at most."""


class ConditionReporter:
    """Reports on the objects of one cluster. Pass every observation to `note`; run `run` and `run_events` once."""

    def __init__(
        self,
        progress: AckProgress,
        index: ObjectIndex,
        write: Callable[[ConditionReport], Awaitable[Outcome | RetryLater]],
        write_event: Callable[[ObjectEvent], Awaitable[Outcome | RetryLater]],
        *,
        cluster: str,
        kinds: Collection[str],
        mesh_namespace: str,
        now: Callable[[], str],
        clock: Callable[[], float],
        leads: Callable[[], bool] = lambda: True,
        pace: ReportPace | None = None,
    ) -> None:
        """`kinds`: names of the kinds that get conditions. `now` returns RFC 3339, `clock` seconds."""
        pace = pace or ReportPace()
        self.counts = dict.fromkeys(Outcome, 0)
        self.events = ObjectEventWriter(progress, index, write_event, pace)
        self._evaluator = StatusEvaluator(
            progress, index, cluster=cluster, mesh_namespace=mesh_namespace, now=now, patience=pace.patience
        )
        self._progress = progress
        self._write = write
        self._cluster = cluster
        self._kinds = frozenset(kinds)
        self._clock = clock
        self._leads = leads
        self._pace = pace
        self._seen: dict[Key, Projected] = {}
        self._due: DueQueue[Key] = DueQueue(settle=pace.settle, overdue=pace.overdue)
        self._uncompiled: set[Key] = set()
        """Objects that were evaluated before the compiler had read their event."""
        self._written: dict[Key, list[tuple[str, ...]]] = {}
        """The newest conditions that were written, as `comparable` returns them."""
        self._rate = WriteRate(least=pace.least, most=pace.most, drain=pace.drain)
        self._writing: set[asyncio.Task[None]] = set()
        self._failure: RetryLater | None = None
        self._changed = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Number of objects that wait to be evaluated."""
        return len(self._due)

    # Changes

    def note(self, observation: Observation) -> None:
        """Take an observation, before or after the writer has."""
        match observation:
            case ObjectUpdated(item) if item.kind == "Namespace":
                self._evaluator.see_namespace(item)
            case KindListed("Namespace"):
                for item in observation.objects:
                    self._evaluator.see_namespace(item)
            case ObjectUpdated(item) if item.kind in self._kinds:
                self._see(item)
            case ObjectDeleted(kind, name):
                self._forget((kind, name))
            case KindListed(kind) if kind in self._kinds:
                there = {(kind, item.name) for item in observation.objects}
                for key in [key for key in self._seen if key[0] == kind and key not in there]:
                    self._forget(key)
                for item in observation.objects:
                    self._see(item)
            case _:
                return
        self._changed.set()

    def progress_changed(self) -> None:
        """Evaluate the objects whose `AckProgress` has changed."""
        self._changed.set()

    def pin(self, pinned: PinnedForms | None) -> None:
        """Set the pin in force; None: there is none."""
        if pinned != self._evaluator.pinned:
            self._evaluator.pinned = pinned
            self._enqueue_all()

    def _see(self, item: Projected) -> None:
        key, before = (item.kind, item.name), self._seen.get((item.kind, item.name))
        self._seen[key] = item
        if before is None or (before.uid, before.digest, before.generation) != (item.uid, item.digest, item.generation):
            self._due.changed(key, self._clock())
        elif before.status != item.status:
            self._due.enqueue(key, self._clock())

    def _forget(self, key: Key) -> None:
        self._seen.pop(key, None)
        self._due.forget(key)
        self._uncompiled.discard(key)
        self._evaluator.forget(key)
        self._written.pop(key, None)

    def _enqueue_all(self) -> None:
        for key in self._seen:
            self._due.enqueue(key, self._clock())
        self._changed.set()

    # Writing

    async def run(self) -> None:
        """Report for ever."""
        while True:
            next_time = self._due.next()
            if self._uncompiled:
                # The object's own event may reach this process later than the compiler's progress.
                next_time = min(self._clock() + _COMPILE_INTERVAL, next_time or math.inf)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if next_time is None else max(0.0, next_time - self._clock())):
                    await self._changed.wait()
            if not self._leads():
                await asyncio.sleep(self._pace.stand_by)
                continue
            self._changed.clear()
            await self.turn()
            await asyncio.sleep(self._pace.look)

    async def run_events(self) -> None:
        """Write events about objects for ever."""
        await self.events.run()

    async def turn(self) -> None:
        """Write the reports that are due now, and those that become due meanwhile."""
        self._rate.reset()
        self._failure = None
        async with asyncio.TaskGroup() as group:
            next_collection = -math.inf
            while self._continues():
                fresh = self._clock() >= next_collection
                if fresh:
                    self._collect()
                    self._rate.set_backlog(self._due.ripe(self._clock()))
                    next_collection = self._clock() + _COLLECT_INTERVAL
                keys = self._due.take(self._clock(), min(_BATCH, 1 + int(self._rate.rate * _COLLECT_INTERVAL)))
                if keys:
                    await self._write_all(keys, group)
                    await asyncio.sleep(0)
                elif not fresh:
                    next_collection = -math.inf
                elif self._writing:
                    # A slow request does not delay the others.
                    await asyncio.wait(self._writing, timeout=_COLLECT_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
                else:
                    break
        if self._failure is not None:
            await asyncio.sleep(self._pace.delay_after(self._failure))

    def _continues(self) -> bool:
        return self._failure is None and self._leads()

    def _collect(self) -> None:
        """Enqueue the objects whose conditions may have changed."""
        now = self._clock()
        keys, everything = self._progress.take_changed()
        if everything:
            self._enqueue_all()
        for key in keys:
            place = (key.kind, NamespacedName(namespace=key.namespace, name=key.name))
            if key.cluster == self._cluster and place in self._seen:
                self._due.enqueue(place, now)
        for place in [one for one in self._uncompiled if self._evaluator.compiled(one, self._seen.get(one))]:
            self._uncompiled.discard(place)
            self._due.enqueue(place, now)
        self.events.add_left_out()

    async def _write_all(self, keys: Sequence[Key], group: asyncio.TaskGroup) -> None:
        """Begin to write these at the rate, each evaluated in its turn; a failed one is enqueued again."""
        items = [(key, self._seen.get(key)) for key in keys]
        for key, item in items:
            await self._turn_to_write()
            now = self._clock()
            if not self._continues() or self._seen.get(key) is not item:
                self._due.enqueue(key, now)
                continue
            report = self._evaluate(key, item, now)
            if report is None:
                continue
            self._rate.begin(now)
            # Not evaluated again before the outcome of this request.
            self._due.hold(key, math.inf)
            task = group.create_task(self._write_one(key, report))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    def _evaluate(self, key: Key, item: Projected | None, now: float) -> ConditionReport | None:
        found = self._evaluator.evaluate(key, item, now) if item is not None else None
        if not isinstance(found, Pending):
            return found
        if found.until is None:
            self._uncompiled.add(key)
        else:
            self._due.postpone(key, found.until)
        return None

    async def _turn_to_write(self) -> None:
        """Wait until one more request may begin, or none may."""
        while self._continues():
            if len(self._writing) >= self._pace.at_once:
                await asyncio.wait(self._writing, return_when=asyncio.FIRST_COMPLETED)
            elif delay := self._rate.delay(self._clock()):
                await asyncio.sleep(delay)
            else:
                return

    async def _write_one(self, key: Key, report: ConditionReport) -> None:
        outcome = await self._write(report)
        if isinstance(outcome, RetryLater):
            self.counts[Outcome.LATER] += 1
            self._due.hold(key, self._clock())
            self._due.enqueue(key, self._clock())
            self._fail(outcome)
        else:
            self.counts[outcome] += 1
            self._finish(key, report, outcome)

    def _fail(self, failure: RetryLater) -> None:
        if failure.seconds and self._failure is None:
            self._rate.slow_down()
        if self._failure is None or failure.seconds > self._failure.seconds:
            self._failure = failure

    def _finish(self, key: Key, report: ConditionReport, outcome: Outcome) -> None:
        self._rate.succeeded()
        # The watch shows what was written. If the same conditions are to be written again, the API server accepts them
        # and stores others (its schema prunes fields, for example).
        written = comparable(report.conditions)
        vain = outcome is Outcome.REFUSED or self._written.get(key) == written
        self._written[key] = written
        self._due.hold(key, self._clock() + (self._pace.refused if vain else self._pace.again))
        item = report.object
        for reason, message in turned_bad(conditions_in(item.status), report.conditions):
            self.events.add(
                ObjectEvent(item.kind, item.name, item.uid, item.resource_version, item.api_version, reason, message)
            )
