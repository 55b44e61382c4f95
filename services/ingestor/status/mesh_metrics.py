"""What the ingestor, who follows the whole mesh, tells of it by its metrics and `/readyz`.

Proxies by how they stand, certificates that have ended, and for how long the newest event has waited for the compiler.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from services.ingestor.settings import IngestorSettings
from services.ingestor.status.ack_progress import Reach
from shared.records.proxy_status import STATES
from shared.service.process import Context
from shared.telemetry.metrics import Labels

OVERDUE = 2.0
"""Seconds that an event may wait for the compiler before it is remarked."""
_LOOK = 1.0
_NAMED = 5
"""Proxies that a remark names."""


class Overdue:
    """For how long the newest events have waited to be published. Mutable; one owner, which looks about each second."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """At the last look; 0: none waited."""
        self._target = 0
        self._since = 0.0

    def look(self, *, newest: int, compiled: int, now: float) -> None:
        """`newest`: the last event in the log; `compiled`: up to which all is published; `now`: of a steady clock.

        An event counts from the first look that sees it, and under steady change each is measured anew.
        """
        if compiled >= self._target:
            self._target, self._since = newest, now
        self.seconds = now - self._since if self._target > compiled else 0.0


def tell(
    context: Context[IngestorSettings], reach: Reach, *, leads: Callable[[], bool], newest: Callable[[], int]
) -> None:
    """Have metrics and `/readyz` tell. `newest`: sequence of the last event in the log."""
    overdue = Overdue()
    gauge = context.metrics.gauge
    gauge(
        "meshlog_mesh_proxies",
        "Proxies by how they stand, as the ingestor that leads sees them.",
        lambda: _standing(reach) if leads() else {},
    )
    gauge(
        "meshlog_mesh_ended_certificates",
        "Connected proxies whose certificate has ended, as the ingestor that leads sees them.",
        lambda: {(): float(len(reach.ended(time.time())))} if leads() else {},
    )
    gauge(
        "meshlog_mesh_unpublished_seconds",
        "Seconds for which the newest events have waited for the compiler, as the ingestor that leads sees it.",
        lambda: {(): overdue.seconds} if leads() else {},
    )
    context.spawn(_remark(context, reach, overdue, leads=leads, newest=newest), "remarks")


def _standing(reach: Reach) -> dict[Labels, float]:
    states = reach.states()
    return {(("state", state),): float(len(states.get(state, ()))) for state in STATES}


async def _remark(
    context: Context[IngestorSettings],
    reach: Reach,
    overdue: Overdue,
    *,
    leads: Callable[[], bool],
    newest: Callable[[], int],
) -> None:
    """Name the proxies that are not in sync or without a valid certificate, and say that events wait."""
    while True:
        states = reach.states()
        said = [f"{len(states[state])} {state}: {_some(states[state])}" for state in STATES[1:] if state in states]
        context.remark("proxies", "; ".join(said))
        ended = reach.ended(time.time())
        context.remark("certificates", f"{len(ended)} have ended: {_some(ended)}" if ended else "")
        # A replica that stands by sees the events late.
        overdue.look(newest=newest() if leads() else 0, compiled=reach.compiled, now=time.monotonic())
        late = overdue.seconds > OVERDUE
        context.remark("published", f"events wait for the compiler for {overdue.seconds:.0f} s" if late else "")
        await asyncio.sleep(_LOOK)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
