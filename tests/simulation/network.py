"""Links between a process and the log that delay, lose, cut and come too late; and processes that die at any await.

A request may be lost before it has an effect, or its answer after; a process that is dead or cut off learns nothing,
and nothing that it still had in hand takes effect, except what was on its way already.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import Checkpoint, Draft, Job, LogUnavailableError, Record


class Link:
    """One process's way to the log."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.dead = False
        self.cut = False
        self.slow = 0.0
        """Seconds that each message may take further: a slow disk, a full network."""
        self.loses = 0.0
        """Probability that a request or its answer is lost."""
        self._changed = asyncio.Event()

    def change(self, *, dead: bool | None = None, cut: bool | None = None) -> None:
        """Cut or mend."""
        self.dead = self.dead if dead is None else dead
        self.cut = self.cut if cut is None else cut
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def travel(self) -> None:
        """A message's way; raises after the time that a client waits, if it does not arrive."""
        await asyncio.sleep(self.chance.random() * 0.01 + self.chance.random() * self.slow)
        if self.dead:
            await asyncio.get_running_loop().create_future()
        if self.cut or self.chance.random() < self.loses:
            await asyncio.sleep(5.0 * self.chance.random())
            raise LogUnavailableError("log/timeout", "no answer (simulated)")

    async def open(self) -> None:
        """Wait until messages pass."""
        while self.cut or self.dead:
            await self._changed.wait()


class LinkedLog:
    """An `EventLog` behind a link."""

    def __init__(self, log: MemoryLog, link: Link) -> None:
        self._log = log
        self._link = link

    @property
    def name(self) -> str:
        return self._log.name

    async def append(self, drafts: Sequence[Draft], *, scope: str, after: Checkpoint, epoch: str = "") -> Checkpoint:
        await self._link.travel()
        written = await self._log.append(drafts, scope=scope, after=after, epoch=epoch)
        await self._link.travel()
        return written

    async def publish(self, draft: Draft) -> int:
        await self._link.travel()
        sequence = await self._log.publish(draft)
        await self._link.travel()
        return sequence

    async def read(self, *, start: int = 1, subjects: str = ">") -> AsyncIterator[Record]:
        await self._link.travel()
        async for record in self._log.read(start=start, subjects=subjects):
            if self._link.chance.random() < 0.02:
                await self._link.travel()
            yield record

    async def follow(self, *, start: int = 1, subjects: str = ">") -> AsyncIterator[Record]:
        async for record in self._log.follow(start=start, subjects=subjects):
            await self._link.open()
            await asyncio.sleep(self._link.chance.random() * 0.005 + self._link.chance.random() * self._link.slow)
            yield record

    async def last(self, subject: str) -> Record | None:
        await self._link.travel()
        return await self._log.last(subject)

    async def at(self, sequence: int) -> Record | None:
        await self._link.travel()
        return await self._log.at(sequence)

    async def last_per_subject(self, subjects: str = ">") -> list[Record]:
        await self._link.travel()
        return await self._log.last_per_subject(subjects)

    async def tip(self, scope: str) -> Checkpoint:
        await self._link.travel()
        return await self._log.tip(scope)

    async def bounds(self) -> tuple[int, int]:
        await self._link.travel()
        return await self._log.bounds()

    async def trim(self, *, before: int, subjects: str = ">") -> None:
        await self._link.travel()
        await self._log.trim(before=before, subjects=subjects)

    async def advance(self, *, beyond: int) -> None:
        await self._link.travel()
        await self._log.advance(beyond=beyond)

    def take(self, group: str) -> AsyncIterator[Job]:
        return self._log.take(group)
