"""Settings of the ingestor, and the defaults that its other modules share."""

from __future__ import annotations

from shared.service.lease import TTL
from shared.service.settings import CommonSettings

PANIC = 0.5
"""Share of a kind's objects above which deletions by one list need a second list; 1: no list needs confirmation."""
HISTORY = 7 * 86400.0
"""Seconds of history that the log of events keeps."""
HISTORY_SLACK = 20_000
"""Records up to which the log of events is not trimmed."""
SILENCE = 150.0
"""Seconds after which a silent watch is resumed; Kubernetes sends bookmarks about once a minute."""
ISSUER_INTERVAL = 300.0
"""Seconds between two readings of the cluster's token keys."""
GATHER = 5.0
"""Seconds that the first round waits for all kinds."""
QUEUE = 1000
"""Observations that may wait for the log."""


class IngestorSettings(CommonSettings, frozen=True, kw_only=True):
    """Settings of the ingestor: lists and watches of one cluster into the log."""

    kubeconfig: str = ""
    """Kubeconfig file; empty: the service account of the pod that this runs in."""
    silence: float = SILENCE
    """Seconds without a byte (bookmarks included) after which a watch is taken for dead and resumed."""
    issuer_every: float = ISSUER_INTERVAL
    """Seconds between readings of the cluster's token keys."""
    gather: float = GATHER
    """Seconds that the first round waits for all kinds, so that they reach proxies in one version."""
    queue: int = QUEUE
    """Observations that may wait for the log; while the queue is full, watches wait."""
    panic: float = PANIC
    """Share of a kind's objects above which deletions by one list must be confirmed by another, as must the loss of a
    service's last ready endpoint; 1: every list is believed."""
    history: float = HISTORY
    """Seconds of the past that the log of events keeps; living objects are kept for ever."""
    history_slack: int = HISTORY_SLACK
    """Records up to which the log of events is never trimmed."""
    lease_ttl: float = TTL
    """Seconds without a renewal after which a standby takes over from the leader."""
