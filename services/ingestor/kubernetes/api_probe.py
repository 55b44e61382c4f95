"""Whether the API server answers at all, asked about once a second.

A watch may be silent for a minute, and the kernel gives its connection up only after eight seconds: that is soon enough
to reconnect, and late for a person who asks why changes do not arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.ingestor.kubernetes.source import SourceError

EVERY = 1.0
"""Seconds between two questions."""
WITHIN = 2.0
"""Seconds within which an answer must come."""


class Pulse:
    """`run` it as a task."""

    def __init__(self, answers: Callable[[], Awaitable[None]], *, every: float = EVERY, within: float = WITHIN) -> None:
        """`answers` raises `SourceError` if the server does not."""
        self._answers = answers
        self._every = every
        self._within = within
        self.changed = asyncio.Event()
        """Set when `trouble` becomes another; cleared by the one that waits for it."""
        self.trouble = ""
        """Why the server cannot be asked; empty: it answers."""

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            before, self.trouble = self.trouble, await self._ask()
            if before != self.trouble:
                self.changed.set()
            await asyncio.sleep(self._every)

    async def _ask(self) -> str:
        try:
            async with asyncio.timeout(self._within):
                await self._answers()
        except TimeoutError:
            return f"the Kubernetes API does not answer within {self._within:g} s"
        except SourceError as error:
            return f"the Kubernetes API does not answer ({error.failure.why})"
        return ""
