"""Probes about once a second whether the API server answers.

A watch may be silent for a minute, and the kernel closes its dead connection only after eight seconds: soon enough to
reconnect, but late for a person who asks why changes do not arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.ingestor.kubernetes.object_source import SourceError

EVERY = 1.0
"""Seconds between two requests."""
WITHIN = 2.0
"""Seconds within which the answer must arrive."""


class ApiProbe:
    """Holds the result of the newest probe. Run `run` as a task."""

    def __init__(self, answers: Callable[[], Awaitable[None]], *, every: float = EVERY, within: float = WITHIN) -> None:
        """`answers` sends a request, and raises `SourceError` if the server does not answer."""
        self._answers = answers
        self._every = every
        self._within = within
        self.changed = asyncio.Event()
        """Set when `trouble` changes; its waiter clears it."""
        self.trouble = ""
        """Why the server does not answer; empty if it does."""

    async def run(self) -> None:
        """Probe for ever."""
        while True:
            before, self.trouble = self.trouble, await self._probe()
            if before != self.trouble:
                self.changed.set()
            await asyncio.sleep(self._every)

    async def _probe(self) -> str:
        try:
            async with asyncio.timeout(self._within):
                await self._answers()
        except TimeoutError:
            return f"the Kubernetes API does not answer within {self._within:g} s"
        except SourceError as error:
            return f"the Kubernetes API does not answer ({error.failure.why})"
        return ""
