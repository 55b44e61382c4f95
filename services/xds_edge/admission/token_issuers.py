"""The token issuers of the cluster: a view of `TokenIssuer` objects in the log, folded into the verifier."""

from __future__ import annotations

import logging
from collections.abc import Callable

from shared.eventlog.fold import Epoch
from shared.eventlog.protocol import EventLog, Record
from shared.eventlog.view import LogView
from shared.identity.service_account_tokens import TokenVerifier
from shared.io.decoding import decode
from shared.projected_objects import TokenIssuer
from shared.records import events
from shared.records.subjects import Streams

_log = logging.getLogger(__name__)
_KIND = "TokenIssuer"


class IssuerFold:
    """The fold that keeps a verifier current. `changed` is called after each change."""

    def __init__(self, verifier: TokenVerifier, *, changed: Callable[[], None]) -> None:
        self._verifier = verifier
        self._changed = changed
        self.known: dict[str, TokenIssuer] = {}
        """By cluster."""

    def restore(self, issuers: dict[str, TokenIssuer]) -> None:
        """Accept the issuers of the last good state from disk."""
        for cluster, issuer in issuers.items():
            self.known[cluster] = issuer
            self._verifier.set_issuer(cluster, issuer)

    def reset(self, _epoch: Epoch) -> None:
        """Keep the keys until the new epoch has others: without an issuer no proxy could connect."""

    def fold(self, record: Record) -> bool:
        """Apply an event of a token issuer. Raises `MeshlogError` or `UndecodableError` if it cannot be decoded."""
        event = events.read(record)
        if event.object is None:
            # No controller deletes this object; without an issuer no proxy could connect.
            _log.warning("the token issuer of %s was deleted; its last keys stay in force", event.cluster)
            return True
        issuer = decode(TokenIssuer, event.object)
        if self.known.get(event.cluster) != issuer:
            self.known[event.cluster] = issuer
            self._verifier.set_issuer(event.cluster, issuer)
            self._changed()
        return True


def issuers_view(log: EventLog, issuers: IssuerFold, *, streams: Streams, cluster: str) -> LogView:
    """The view of `MESH_EVENTS` that keeps `issuers` current; `run` it as a task."""
    return LogView(log, issuers, name="token issuers", subjects=(streams.kind_scope(cluster, _KIND),), streams=streams)
