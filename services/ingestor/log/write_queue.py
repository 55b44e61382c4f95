"""What reflectors have handed over and the writer has not taken yet: the queue, and the change sets held back in it.

Bounded: a full inbox makes watches wait, and the server keeps what they have not read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from services.ingestor.core.change_sets import ChangeSets, Group
from services.ingestor.core.observations import Absent, Fact, Listed, Observed
from services.ingestor.core.standby_buffer import Standby
from shared.eventlog.protocol import MAX_BATCH

_log = logging.getLogger(__name__)


class Inbox:
    """Facts in, groups out. One taker."""

    def __init__(
        self,
        *,
        size: int,
        sets: ChangeSets,
        clock: Callable[[], float],
        last_set: Callable[[Observed], str],
    ) -> None:
        """`last_set`: the change set that an object's newest record in the log came with."""
        self._queue: asyncio.Queue[Fact | None] = asyncio.Queue(maxsize=size)
        self._sets = sets
        self._clock = clock
        self._last = last_set

    async def put(self, fact: Fact) -> None:
        """Hand over a fact; waits while the taker is behind."""
        await self._queue.put(fact)

    def wake(self) -> None:
        """Make whoever waits for a fact look around."""
        if not self._queue.full():
            self._queue.put_nowait(None)

    def sort(self, facts: Sequence[Fact]) -> list[Group]:
        """Facts as groups: whole change sets together, incomplete ones held back."""
        now = self._clock()
        found = [group for fact in facts for group in self._sets.offer(fact, last=self._last_set(fact), now=now)]
        return found + self._sets.due(now)

    async def gather(self, kinds: Iterable[str], seconds: float | None, *, complain: float) -> list[Group]:
        """Wait until every kind has been listed (or is absent), but not for ever.

        With no number of seconds it does wait for ever: a new epoch that lacked a kind would take from proxies what
        nobody took away. `complain`: seconds between log lines meanwhile. However long it takes, no more is kept than
        the newest word on each object.
        """
        deadline = self._clock() + (complain if seconds is None else seconds)
        missing = set(kinds)
        kept, absent = Standby(), dict[str, Absent]()

        def keep(fact: Fact) -> None:
            kept.keep(fact)
            if isinstance(fact, Absent):
                absent[fact.kind] = fact

        while missing:
            fact = await self.next(deadline)
            if fact is None:
                if self._clock() < deadline:
                    continue
                _log.warning("not every kind could be listed in time", extra={"missing": sorted(missing)})
                if seconds is not None:
                    break
                deadline = self._clock() + complain
                continue
            keep(fact)
            if isinstance(fact, Listed | Absent):
                missing.discard(fact.kind)
        while not self._queue.empty():
            if (fact := self._queue.get_nowait()) is not None:
                keep(fact)
        facts = [*absent.values(), *kept.take()]
        return [Group(tuple(facts))] if facts else []

    async def drain(self, until: float) -> list[Group]:
        """What has queued up, at least one group unless `until` is over (a time of the clock)."""
        held_until = self._sets.deadline
        deadline = until if held_until is None else min(until, held_until)
        fact = await self.next(deadline)
        groups: list[Group] = []
        taken = 0
        while fact is not None:
            groups += self._sets.offer(fact, last=self._last_set(fact), now=self._clock())
            taken += 1
            fact = self._queue.get_nowait() if taken < MAX_BATCH and not self._queue.empty() else None
        groups += self._sets.due(self._clock())
        return groups

    async def next(self, deadline: float) -> Fact | None:
        """The next fact; none if somebody woke the taker, or the deadline is over."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock())):
                return await self._queue.get()
        except TimeoutError:
            return None

    def _last_set(self, fact: Fact) -> str:
        if not isinstance(fact, Observed):
            return ""
        return self._last(fact)
