"""Writes Kubernetes events about objects: conditions that turned bad, and objects of other kinds that are left out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from services.ingestor.core.object_index import ObjectIndex
from services.ingestor.core.observations import NamespacedName
from services.ingestor.status.ack_progress import AckProgress
from services.ingestor.status.conditions import StatusFacts, conditions, turned_bad
from services.ingestor.status.reports import ObjectEvent, Outcome, ReportPace, RetryLater
from shared.records.events import ObjectKey

_MAX_WAITING = 2000
"""Events that wait; beyond that the oldest are dropped."""


class ObjectEventWriter:
    """A bounded queue of events. Run `run` once."""

    def __init__(
        self,
        progress: AckProgress,
        index: ObjectIndex,
        write: Callable[[ObjectEvent], Awaitable[Outcome | RetryLater]],
        pace: ReportPace,
    ) -> None:
        self.written = 0
        """Events that the API server has answered, since the start."""
        self.dropped = 0
        """Events that were dropped from a full queue, since the start."""
        self._progress = progress
        self._index = index
        self._write = write
        self._pace = pace
        self._waiting: deque[ObjectEvent] = deque()
        self._announced: dict[ObjectKey, tuple[tuple[str, str], ...]] = {}
        self._added = asyncio.Event()

    def add(self, event: ObjectEvent) -> None:
        """Queue an event."""
        if len(self._waiting) >= _MAX_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(event)
        self._added.set()

    def add_left_out(self) -> None:
        """Queue events about left-out objects without conditions: Services, slices, Pods, Namespaces, accounts."""
        others = self._progress.left_out_others
        for key in [key for key in self._announced if key not in others]:
            del self._announced[key]
        for key, found in others.items():
            reasons = tuple((one.code, one.sentence) for one in found)
            name = NamespacedName(namespace=key.namespace, name=key.name)
            known = self._index.get(key.kind, name)
            if self._announced.get(key) == reasons or known is None or not known.lives or not known.uid:
                continue
            self._announced[key] = reasons
            facts = StatusFacts(version=0, left_out=reasons)
            for reason, message in turned_bad((), conditions(facts, generation=0, before=(), now="")):
                self.add(ObjectEvent(key.kind, name, known.uid, known.resource_version, "", reason, message))

    async def run(self) -> None:
        """Write events for ever."""
        while True:
            await self._added.wait()
            self._added.clear()
            while self._waiting:
                event = self._waiting.popleft()
                outcome = await self._write(event)
                if isinstance(outcome, RetryLater):
                    self._waiting.appendleft(event)
                    await asyncio.sleep(self._pace.delay_after(outcome))
                    continue
                self.written += 1
                await asyncio.sleep(1 / self._pace.news)
