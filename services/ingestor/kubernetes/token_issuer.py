"""The cluster's token issuer as an event: who verifies service-account tokens needs no Kubernetes for it.

There is no watch for it, so it is read again every few minutes, and whenever a reflector has had to list: after
the API server was away its keys may be others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from services.ingestor.core.kinds import TOKEN_ISSUER
from services.ingestor.core.observations import Fact, Listed
from services.ingestor.core.projection import project_issuer
from services.ingestor.kubernetes.source import Source, SourceError
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)


class IssuerPoller:
    """Keeps the `TokenIssuer` event current."""

    def __init__(
        self, source: Source, sink: Callable[[Fact], Awaitable[None]], *, every: float = 300.0, retry: float = 2.0
    ) -> None:
        """`every` and `retry` in seconds; failures are tried again at twice the pause each, up to `every`."""
        self._source = source
        self._sink = sink
        self._every = every
        self._backoff = Backoff(first=retry, longest=every)
        self._wanted = asyncio.Event()
        self.failing = "not read yet"

    def poke(self) -> None:
        """Read it again soon."""
        self._wanted.set()

    async def run(self) -> None:
        """Read for ever."""
        delays = self._backoff.delays()
        while True:
            self._wanted.clear()
            try:
                issuer, jwks = await self._source.issuer()
            except SourceError as error:
                if not self.failing:
                    _log.warning("the token issuer cannot be read", extra={"why": error.failure.why})
                self.failing = error.failure.why
                await asyncio.sleep(delays.next())
                continue
            self.failing = ""
            delays.reset()
            await self._sink(
                Listed(kind=TOKEN_ISSUER, resource_version="", objects=(project_issuer(issuer, jwks),), complete=False)
            )
            try:
                async with asyncio.timeout(self._every):
                    await self._wanted.wait()
            except TimeoutError:
                continue
