"""Disks: the log's, slow or full for everyone; and an edge's, on which a file is replaced while a crash may come.

The file of an edge is written beside the old one and renamed, so a crash leaves the old one or the new one. A disk
that lies about what it has synced leaves less: the file as it was before, cut short, or with a bit changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import Checkpoint, Draft, LogUnavailableError

_PIECES = 4


class StreamDisk(MemoryLog):
    """A stream whose records are written one batch after the other, each as slowly as the disk."""

    def __init__(self, *arguments: Any, chance: random.Random, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.slow = 0.0
        """Most seconds that a batch takes, for every writer; later batches wait."""
        self.full = False
        """It can be read, and takes nothing."""
        self._chance = chance
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """When it is a request's turn to change the stream."""
        async with self._turn:
            if self.slow:
                await asyncio.sleep(self._chance.random() * self.slow)
            yield

    async def append(self, drafts: Sequence[Draft], *, scope: str, after: Checkpoint, epoch: str = "") -> Checkpoint:
        self._check_space()
        return await super().append(drafts, scope=scope, after=after, epoch=epoch)

    async def publish(self, draft: Draft) -> int:
        self._check_space()
        return await super().publish(draft)

    def payload(self, sequence: int) -> bytes:
        """The bytes of a record."""
        return self._records[sequence].payload

    def subject(self, sequence: int) -> str:
        """Under which subject a record stands."""
        return self._records[sequence].subject

    def headers(self, sequence: int) -> Mapping[str, str]:
        """The headers of a record."""
        return self._records[sequence].headers

    def _check_space(self) -> None:
        if self.full:
            raise LogUnavailableError("log/unavailable", "no space left (simulated)", about=self.name)


class FileDisk:
    """One file, replaced as a whole."""

    def __init__(self, chance: random.Random) -> None:
        self.slow = 0.0
        """Seconds that a write takes at most."""
        self._chance = chance
        self._content: bytes | None = None
        self._before: bytes | None = None

    async def write(self, content: bytes) -> None:
        """Beside, piece by piece, then in its place; a crash on the way leaves the file as it was."""
        for _ in range(_PIECES):
            await asyncio.sleep(self._chance.random() * (0.002 + self.slow / _PIECES))
        self._before, self._content = self._content, content

    def read(self) -> bytes | None:
        """What is there; none: no file."""
        return self._content

    def tear(self) -> str:
        """What a disk that lied about its syncs has after a crash; how it differs, empty: not at all."""
        content = self._content
        if not content:
            return ""
        match self._chance.randrange(3):
            case 0:
                self._content = self._before
                return "has what was written before"
            case 1:
                self._content = content[: self._chance.randrange(len(content))]
                return "has a part of its file"
            case _:
                self._content = flipped(content, self._chance)
                return "has a flipped bit"


def flipped(content: bytes, chance: random.Random) -> bytes:
    """The same bytes with one bit changed."""
    if not content:
        return b"\0"
    changed = bytearray(content)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)
