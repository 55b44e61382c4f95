"""Settings of the ingestor."""

from __future__ import annotations

from services.ingestor.core.diff import PANIC
from services.ingestor.log.compaction import SLACK, WINDOW
from shared.service.lease import TTL
from shared.service.settings import CommonSettings


class IngestorSettings(CommonSettings, frozen=True, kw_only=True):
    """Settings of the ingestor: lists and watches of one cluster into the log."""

    kubeconfig: str = ""
    """Kubeconfig file; empty: the service account of the pod that this runs in."""
    silence: float = 150.0
    """Seconds without a byte (bookmarks included) after which a watch is taken for dead and resumed."""
    issuer_every: float = 300.0
    """Seconds between readings of the cluster's token keys."""
    gather: float = 5.0
    """Seconds that the first round waits for all kinds, so that they reach proxies in one version."""
    queue: int = 1000
    """Facts that may wait for the log; a full queue makes watches wait."""
    panic: float = PANIC
    """Share of a kind's objects above which deletions by one list must be confirmed by another, as must the loss of a
    service's last ready endpoint; 1: every list is believed."""
    history: float = WINDOW
    """Seconds of the past that the log of events keeps; what lives is kept for ever."""
    history_slack: int = SLACK
    """Records up to which the log of events is never trimmed."""
    lease_ttl: float = TTL
    """Seconds after which a standby takes over from a leader that says nothing any more."""
