"""How long a container that ended waits before it is started again. Pure.

Gentler than Kubernetes' (10 s doubling to 5 min), since here a restart costs milliseconds and people are waiting:
the first restart is immediate, then 0.5 s doubling to 30 s; a run of a minute earns a clean record.
"""

from __future__ import annotations

_FIRST = 0.5
_LONGEST = 30.0
_FORGIVEN_AFTER = 60.0


class Backoff:
    """The record of one container."""

    def __init__(self) -> None:
        self._restarts = 0

    def next(self, ran_for: float) -> float:
        """Seconds to wait after a run of that many seconds."""
        if ran_for >= _FORGIVEN_AFTER:
            self._restarts = 0
        self._restarts += 1
        if self._restarts == 1:
            return 0.0
        return min(_FIRST * 2.0 ** min(self._restarts - 2, 16), _LONGEST)
