"""Whose tokens are believed: follows the `TokenIssuer` of the cluster from the log into the verifier."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from shared import events
from shared.decoding import UndecodableError, decode
from shared.errors import MeshlogError
from shared.eventlog.protocol import EventLog, EventLogError, Record
from shared.model import TokenIssuer
from shared.subjects import Streams
from shared.tokens import TokenVerifier

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 0.3
_KIND = "TokenIssuer"


class IssuerFollower:
    """Keeps a verifier current; `run` it as a task."""

    def __init__(
        self,
        log: EventLog,
        *,
        streams: Streams,
        cluster: str,
        verifier: TokenVerifier,
        changed: Callable[[], None],
    ) -> None:
        self._log = log
        self._scope = streams.kind_scope(cluster, _KIND)
        self._verifier = verifier
        self._changed = changed
        self.known: dict[str, TokenIssuer] = {}
        """By cluster."""

    def learn(self, issuers: dict[str, TokenIssuer]) -> None:
        """Believe what was known when the last good state was written."""
        for cluster, issuer in issuers.items():
            self.known[cluster] = issuer
            self._verifier.set_issuer(cluster, issuer)

    async def run(self) -> None:
        """Follow for ever; outages are waited out, and what is known stays in force."""
        while True:
            try:
                start = 1
                for record in await self._log.last_per_subject(self._scope):
                    self._take(record)
                    start = record.sequence + 1
                async for record in self._log.follow(start=start, subjects=self._scope):
                    self._take(record)
            except EventLogError as error:
                _log.warning("token issuers cannot be followed now: %s", error)
            await asyncio.sleep(_RETRY_SECONDS)

    def _take(self, record: Record) -> None:
        try:
            event = events.read(record)
            issuer = None if event.object is None else decode(TokenIssuer, event.object)
        except (MeshlogError, UndecodableError) as error:
            _log.error("record %d is skipped: %s", record.sequence, error)
            return
        if issuer is None:
            # The object is not one that anybody deletes; with no issuer nobody could connect again.
            _log.warning("the token issuer of %s was deleted; its last keys stay in force", event.cluster)
            return
        if self.known.get(event.cluster) != issuer:
            self.known[event.cluster] = issuer
            self._verifier.set_issuer(event.cluster, issuer)
            self._changed()
