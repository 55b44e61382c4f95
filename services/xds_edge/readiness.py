"""When the edge is ready, and when it may serve its snapshot: what `/readyz` reports, from the states of its parts.

The edge serves once the log confirmed the snapshot, or once the log has been away for too long. It is ready once it
has a snapshot, an issuer of tokens and a certificate, unless it sheds load.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from services.xds_edge.snapshot.fleet import Fleet
from shared.identity.service_account_tokens import TokenVerifier

_log = logging.getLogger(__name__)

Ready = Callable[[str, bool, str], None]
"""Reports a part of the edge by name: whether it is ready, and why it is not."""
Remark = Callable[[str, str], None]
"""Adds a sentence about a part to `/readyz`; an empty one removes it."""


class EdgeReadiness:
    """The readiness of one edge."""

    def __init__(self, fleet: Fleet, verifier: TokenVerifier, *, ready: Ready, remark: Remark) -> None:
        self._fleet = fleet
        self._verifier = verifier
        self._ready = ready
        self._remark = remark
        self.may_serve = False
        """Whether proxies may be served the snapshot: the log confirmed it, or has been away for too long."""
        ready("snapshot", False, "no snapshot, or no issuer of tokens is known, yet")
        ready("certificate", False, "no certificate to serve with yet")

    @property
    def served_version(self) -> int:
        """Version of the snapshot that may be served; 0 if none may be."""
        return self._fleet.version if self.may_serve else 0

    def begin_serving(self) -> None:
        """Allow the snapshot to be served."""
        self.may_serve = True
        self.issuers_changed()

    def issuers_changed(self) -> None:
        """Report the snapshot as ready if it may be served and tokens can be verified."""
        if self.may_serve and self._verifier.clusters:
            self._ready("snapshot", True, "")

    def listening(self) -> None:
        """Report that there is a certificate, and that the port is open."""
        self._ready("certificate", True, "")

    def caught_up(self) -> None:
        """Confirm the snapshot: the log has been read to its end."""
        fleet = self._fleet
        if not fleet.confirmed:
            fleet.confirmed = True
            _log.info("caught up at version %d", fleet.version)
            self.begin_serving()
            fleet.wake_all()

    def log_lost(self) -> None:
        """Doubt the snapshot: while the log is away, other edges may serve newer versions.

        A proxy that comes from such an edge gets nothing until the snapshot is confirmed again.
        """
        self._fleet.confirmed = False

    def trust_disk(self) -> None:
        """Serve the snapshot from disk, unless the log has confirmed one."""
        if not self.may_serve and self._fleet.version:
            _log.warning("the log is away: serving the last good snapshot, version %d", self._fleet.version)
            self.begin_serving()

    def stuck(self, why: str) -> None:
        """Report why newer versions cannot be read, or "" if they can; only a newer build reads them.

        The edge keeps serving the last readable version and stays ready: in an upgrade that begins with the compiler
        all edges are old.
        """
        self._remark("snapshot", why)
        if not self._fleet.version:
            self._ready("snapshot", False, why or "no snapshot yet")
        self._fleet.wake_all()

    def set_load(self, accepts: bool) -> None:  # noqa: FBT001 (a `SetReady`)
        """Report whether new proxies may be sent to this edge."""
        if not accepts:
            _log.warning("busy with the proxies that it has: new ones should be sent to other edges for a while")
        self._ready("load", accepts, "busy with the proxies that it has")
