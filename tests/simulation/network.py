"""Links between a process and the log that delay, lose, repeat, cut one way or both, and let what was sent come late.

A request that changes the log travels by itself: its sender may give up, lose its lease or end, and it may still
arrive, or be lost; a link that was cut delivers some of what it held back when it is mended, as TCP does.
It waits its turn at the stream's disk, which may be slow for everyone. Its answer may be lost, so that a writer never
knows whether what was not confirmed was written. Requests may be sent twice, and what a consumer delivers may come a
second time, though the log promises that it does not: readers verify.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeVar

from shared.eventlog.protocol import Checkpoint, Draft, EventLogError, Extent, Job, LogUnavailableError, Record
from tests.simulation.ledger import RecordedLog
from tests.simulation.life import Life, outside

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds for which a client waits for an answer, at most."""
_LATE = 0.5
"""Share of the requests into a cut link that arrive when it is mended; the others never do."""


class Link:
    """One life's way to the log."""

    def __init__(self, chance: random.Random, life: Life) -> None:
        self.chance = chance
        self.life = life
        self.mute = False
        """What it sends does not arrive."""
        self.deaf = False
        """What is sent to it does not arrive."""
        self.slow = 0.0
        """Seconds that each message may take further: a full network."""
        self.loses = 0.0
        """Probability that a request or its answer is lost."""
        self.repeats = 0.0
        """Probability that a request, or what a consumer delivers, comes twice."""
        self._changed = asyncio.Event()

    @property
    def dead(self) -> bool:
        return self.life.dead

    def change(self, *, mute: bool | None = None, deaf: bool | None = None) -> None:
        """Cut or mend, either way."""
        self.mute = self.mute if mute is None else mute
        self.deaf = self.deaf if deaf is None else deaf
        self.stir()

    def mend(self) -> None:
        """Nothing is wrong with it any more."""
        self.slow = self.loses = self.repeats = 0.0
        self.change(mute=False, deaf=False)

    def stir(self) -> None:
        """Let those who wait for it look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def way(self) -> None:
        """The time that a message takes."""
        await asyncio.sleep(self.chance.random() * 0.01 + self.chance.random() * self.slow)

    def lost(self) -> bool:
        """Whether this one message is lost."""
        return self.chance.random() < self.loses

    async def ask(self) -> None:
        """A question's way there and back; raises after the time that a client waits, if either does not arrive."""
        await self.way()
        if self.dead:
            await asyncio.get_running_loop().create_future()
        if self.mute or self.deaf or self.lost():
            await asyncio.sleep(PATIENCE * self.chance.random())
            raise LogUnavailableError("log/timeout", "no answer (simulated)")

    async def hears(self) -> None:
        """Wait until messages arrive."""
        while self.deaf or self.dead:
            await self._changed.wait()

    async def speaks(self) -> None:
        """Wait until what it sends arrives."""
        while self.mute:
            await self._changed.wait()


class LinkedLog:
    """An `EventLog` behind a link."""

    def __init__(self, log: RecordedLog, link: Link) -> None:
        self.stream = log
        self._link = link

    @property
    def name(self) -> str:
        return self.stream.name

    # What changes the log

    async def append(self, drafts: Sequence[Draft], *, scope: str, after: Checkpoint, epoch: str = "") -> Checkpoint:
        return await self.send(lambda: self.stream.append(drafts, scope=scope, after=after, epoch=epoch))

    async def publish(self, draft: Draft) -> int:
        return await self.send(lambda: self.stream.publish(draft))

    async def send(self, act: Callable[[], Awaitable[T]]) -> T:
        """Ask for something that changes the log; raises after the time that a client waits."""
        link = self._link
        if link.dead:
            await asyncio.get_running_loop().create_future()
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        for _ in range(1 + (link.chance.random() < link.repeats)):
            keep(outside(self._carry(act, answer)))
        # A connection that breaks is noticed sooner than an answer that does not come.
        patience = PATIENCE * (link.chance.random() if link.mute or link.deaf or link.loses else 1.0)
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(answer)
        except TimeoutError as error:
            raise LogUnavailableError("log/timeout", "no answer (simulated)") from error

    async def _carry(self, act: Callable[[], Awaitable[T]], answer: asyncio.Future[T]) -> None:
        """A request's way there, what it does, and its answer's way back."""
        link = self._link
        await link.way()
        if link.lost() or (link.mute and link.chance.random() > _LATE):
            return
        await link.speaks()
        outcome: T | EventLogError
        try:
            async with self.stream.turn():
                outcome = await act()
        except EventLogError as error:
            outcome = error
        await link.way()
        if answer.done() or link.dead or link.deaf or link.lost():
            return
        if isinstance(outcome, EventLogError):
            answer.set_exception(outcome)
            answer.exception()  # the caller may have given up: the exception need not be retrieved
        else:
            answer.set_result(outcome)

    async def trim(self, *, before: int, subjects: str = ">") -> None:
        await self.send(lambda: self.stream.trim(before=before, subjects=subjects))

    async def advance(self, *, beyond: int) -> None:
        await self.send(lambda: self.stream.advance(beyond=beyond))

    # What only looks

    async def read(self, *, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        await self._link.ask()
        async for record in self.stream.read(start=start, subjects=subjects):
            if self._link.chance.random() < 0.02:
                await self._link.ask()
            yield record

    async def follow(self, *, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        link, told = self._link, deque[Record](maxlen=20)
        async for record in self.stream.follow(start=start, subjects=subjects):
            await link.hears()
            await asyncio.sleep(link.chance.random() * 0.005 + link.chance.random() * link.slow)
            yield record
            told.append(record)
            if link.repeats and link.chance.random() < link.repeats:
                yield link.chance.choice(told)

    async def last(self, subject: str) -> Record | None:
        await self._link.ask()
        return await self.stream.last(subject)

    async def at(self, sequence: int) -> Record | None:
        await self._link.ask()
        return await self.stream.at(sequence)

    async def last_per_subject(self, subjects: str = ">") -> list[Record]:
        await self._link.ask()
        return await self.stream.last_per_subject(subjects)

    async def tip(self, scope: str) -> Checkpoint:
        await self._link.ask()
        return await self.stream.tip(scope)

    async def bounds(self) -> tuple[int, int]:
        await self._link.ask()
        return await self.stream.bounds()

    async def extent(self) -> Extent:
        await self._link.ask()
        return await self.stream.extent()

    async def lacks_after(self, sequence: int) -> bool:
        await self._link.ask()
        return await self.stream.lacks_after(sequence)

    def take(self, group: str) -> AsyncGenerator[Job]:
        return self.stream.take(group)


_carried: set[asyncio.Task[None]] = set()


def keep(task: asyncio.Task[None]) -> None:
    """Hold on to a task until it is done: a loop does not."""
    _carried.add(task)
    task.add_done_callback(_carried.discard)
