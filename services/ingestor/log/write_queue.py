"""Queue of observations between reflectors and the writer, and the change sets held back in it.

Bounded: while the queue is full, watches wait, and the server keeps what they have not read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from services.ingestor.core.change_set_assembler import ChangeSetAssembler, WriteGroup
from services.ingestor.core.observations import KindAbsent, KindListed, ObjectUpdated, Observation
from services.ingestor.core.standby_buffer import StandbyBuffer
from shared.eventlog.protocol import MAX_BATCH

_log = logging.getLogger(__name__)


class WriteQueue:
    """Takes observations, returns groups. One consumer."""

    def __init__(
        self,
        *,
        size: int,
        sets: ChangeSetAssembler,
        clock: Callable[[], float],
        last_set: Callable[[ObjectUpdated], str],
    ) -> None:
        """`last_set` returns the change set of an object's newest record in the log; `clock` is in seconds."""
        self._queue: asyncio.Queue[Observation | None] = asyncio.Queue(maxsize=size)
        self._sets = sets
        self._clock = clock
        self._last = last_set

    async def put(self, observation: Observation) -> None:
        """Queue an observation; waits while the queue is full."""
        await self._queue.put(observation)

    def wake(self) -> None:
        """Make `next` return at once."""
        if not self._queue.full():
            self._queue.put_nowait(None)

    def sort(self, observations: Sequence[Observation]) -> list[WriteGroup]:
        """Group observations: complete change sets together, incomplete ones held back."""
        now = self._clock()
        found = [
            group
            for observation in observations
            for group in self._sets.offer(observation, last=self._last_set(observation), now=now)
        ]
        return found + self._sets.due(now)

    async def gather(self, kinds: Iterable[str], seconds: float | None, *, warn_every: float) -> list[WriteGroup]:
        """Wait until every kind is listed or absent, for at most `seconds`.

        If `seconds` is None, wait for ever: a new epoch that lacked a kind would remove its configuration from proxies.
        `warn_every`: seconds between warnings meanwhile. Only the newest observation of each object is kept.
        """
        deadline = self._clock() + (warn_every if seconds is None else seconds)
        missing = set(kinds)
        kept, absent = StandbyBuffer(), dict[str, KindAbsent]()

        def keep(observation: Observation) -> None:
            kept.keep(observation)
            if isinstance(observation, KindAbsent):
                absent[observation.kind] = observation

        while missing:
            observation = await self.next(deadline)
            if observation is None:
                if self._clock() < deadline:
                    continue
                _log.warning("not every kind could be listed in time", extra={"missing": sorted(missing)})
                if seconds is not None:
                    break
                deadline = self._clock() + warn_every
                continue
            keep(observation)
            if isinstance(observation, KindListed | KindAbsent):
                missing.discard(observation.kind)
        while not self._queue.empty():
            if (observation := self._queue.get_nowait()) is not None:
                keep(observation)
        observations = [*absent.values(), *kept.take()]
        return [WriteGroup(tuple(observations))] if observations else []

    async def drain(self, until: float) -> list[WriteGroup]:
        """Take what is queued; waits for a first group until `until`, a time of the clock."""
        held_until = self._sets.deadline
        deadline = until if held_until is None else min(until, held_until)
        observation = await self.next(deadline)
        groups: list[WriteGroup] = []
        taken = 0
        while observation is not None:
            groups += self._sets.offer(observation, last=self._last_set(observation), now=self._clock())
            taken += 1
            observation = self._queue.get_nowait() if taken < MAX_BATCH and not self._queue.empty() else None
        groups += self._sets.due(self._clock())
        return groups

    async def next(self, deadline: float) -> Observation | None:
        """Returns the next observation, or None after `wake` or at the deadline."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock())):
                return await self._queue.get()
        except TimeoutError:
            return None

    def _last_set(self, observation: Observation) -> str:
        if not isinstance(observation, ObjectUpdated):
            return ""
        return self._last(observation)
