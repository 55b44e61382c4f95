"""Polls the cluster's token issuer: as an event, it lets services verify service-account tokens without Kubernetes.

The API has no watch for it, so it is read again every few minutes, and after each list of namespaces: while the API
server was away, its keys may have changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from services.ingestor.core.kinds import TOKEN_ISSUER
from services.ingestor.core.observations import KindListed, Observation
from services.ingestor.core.projection import project_issuer
from services.ingestor.kubernetes.object_source import ObjectSource, SourceError
from services.ingestor.settings import ISSUER_INTERVAL
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)


class IssuerPoller:
    """Keeps the `TokenIssuer` event current."""

    def __init__(
        self,
        source: ObjectSource,
        sink: Callable[[Observation], Awaitable[None]],
        *,
        every: float = ISSUER_INTERVAL,
        retry: float = 2.0,
    ) -> None:
        """`every`, `retry`: seconds between readings; after failures the delay doubles from `retry` up to `every`."""
        self._source = source
        self._sink = sink
        self._every = every
        self._backoff = Backoff(first=retry, longest=every)
        self._wanted = asyncio.Event()
        self.failing = "not read yet"

    def read_soon(self) -> None:
        """Read the issuer again soon."""
        self._wanted.set()

    async def run(self) -> None:
        """Poll for ever."""
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
                KindListed(
                    kind=TOKEN_ISSUER, resource_version="", objects=(project_issuer(issuer, jwks),), complete=False
                )
            )
            try:
                async with asyncio.timeout(self._every):
                    await self._wanted.wait()
            except TimeoutError:
                continue
