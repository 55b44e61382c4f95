"""The back-off between restarts of a container. Pure.

Shorter than on Kubernetes (10 s doubling to 5 min), since a restart costs milliseconds here: the first restart is
immediate, then 0.5 s doubling to 30 s. A run of one minute resets the back-off.
"""

from __future__ import annotations

from shared.timing.backoff import Backoff

_BACKOFF = Backoff(first=0.5, longest=30.0)
_FORGIVEN_AFTER = 60.0


class RestartBackoff:
    """The back-off of one container."""

    def __init__(self) -> None:
        self._immediate = True
        self._delays = _BACKOFF.delays()

    def next(self, ran_for: float) -> float:
        """Seconds to wait after a run of `ran_for` seconds."""
        if ran_for >= _FORGIVEN_AFTER:
            self._immediate = True
            self._delays.reset()
        if self._immediate:
            self._immediate = False
            return 0.0
        return self._delays.next()
