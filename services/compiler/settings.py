"""Settings of the compiler."""

from __future__ import annotations

from shared.service.lease import TTL
from shared.service.settings import CommonSettings


class CompilerSettings(CommonSettings, frozen=True, kw_only=True):
    """The compiler: from events to the configuration of every proxy."""

    service_domain: str = "cluster.local"
    """DNS domain of Services."""
    keyframe_commits: int = 200
    """Commits after which a whole snapshot is written."""
    keyframe_bytes: int = 8 << 20
    """Bytes of commits after which a whole snapshot is written."""
    history: float = 7 * 86400.0
    """Seconds of the past that can be rebuilt; commits and keyframes before that are forgotten."""
    history_keyframes: int = 20
    """Keyframes that are kept at most, even within `history`."""
    lease_ttl: float = TTL
    """Seconds after which a standby takes over from a leader that no longer renews its lease."""
