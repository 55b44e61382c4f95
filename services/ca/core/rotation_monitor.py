"""Records the newest rotation plan and for how long the rotation has waited for the same proxies."""

from __future__ import annotations

from collections.abc import Callable

from services.ca.core.rotation_plan import RotationPlan


class RotationMonitor:
    """The newest plan. Time is read from `clock`, in seconds since 1970."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waits_since = 0.0
        self.plan: RotationPlan | None = None
        """The newest plan; `None` before the first."""

    def record(self, plan: RotationPlan) -> None:
        """Replace the newest plan."""
        before, self.plan = self.plan, plan
        if not plan.waiting:
            self._waits_since = 0.0
        elif before is None or before.waiting != plan.waiting or not self._waits_since:
            self._waits_since = self._clock()

    def waited(self) -> float:
        """Return the seconds for which the rotation has waited for the same proxies; 0 if it waits for none."""
        return max(0.0, self._clock() - self._waits_since) if self._waits_since else 0.0
