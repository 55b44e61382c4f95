"""Metrics and `/readyz` remarks about the whole mesh, from the leading ingestor.

Proxies by state, expired certificates, and how long the newest event has waited for the compiler.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from services.ingestor.settings import IngestorSettings
from services.ingestor.status.ack_progress import AckProgress
from shared.records.proxy_status import STATES
from shared.service.process import Context
from shared.telemetry.metrics import Labels

OVERDUE = 2.0
"""Seconds that an event may wait for the compiler before `/readyz` contains a remark."""
_INTERVAL = 1.0
_NAMED = 5
"""Proxies that a remark names."""


class PublishDelay:
    """How long the newest events have waited to be published. Mutable; one owner calls `look` about each second."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """At the last look; 0: no event waited."""
        self._target = 0
        self._since = 0.0

    def look(self, *, newest: int, compiled: int, now: float) -> None:
        """Measure. `newest`: the last event in the log; `compiled`: the last published one; `now`: monotonic seconds.

        An event counts from the first look that sees it; under steady change each one is measured anew.
        """
        if compiled >= self._target:
            self._target, self._since = newest, now
        self.seconds = now - self._since if self._target > compiled else 0.0


def register_mesh_metrics(
    context: Context[IngestorSettings], progress: AckProgress, *, leads: Callable[[], bool], newest: Callable[[], int]
) -> None:
    """Register the metrics and start the remarks. `newest` returns the sequence of the last event in the log."""
    overdue = PublishDelay()
    gauge = context.metrics.gauge
    gauge(
        "meshlog_mesh_proxies",
        "Proxies by state, as the ingestor that leads sees them.",
        lambda: _proxies(progress) if leads() else {},
    )
    gauge(
        "meshlog_mesh_ended_certificates",
        "Connected proxies whose certificate has ended, as the ingestor that leads sees them.",
        lambda: {(): float(len(progress.ended(time.time())))} if leads() else {},
    )
    gauge(
        "meshlog_mesh_unpublished_seconds",
        "Seconds for which the newest events have waited for the compiler, as the ingestor that leads sees it.",
        lambda: {(): overdue.seconds} if leads() else {},
    )
    context.spawn(_remark(context, progress, overdue, leads=leads, newest=newest), "remarks")


def _proxies(progress: AckProgress) -> dict[Labels, float]:
    states = progress.states()
    return {(("state", state),): float(len(states.get(state, ()))) for state in STATES}


async def _remark(
    context: Context[IngestorSettings],
    progress: AckProgress,
    overdue: PublishDelay,
    *,
    leads: Callable[[], bool],
    newest: Callable[[], int],
) -> None:
    """Keep the remarks: proxies not in sync, proxies without a valid certificate, and waiting events."""
    while True:
        states = progress.states()
        remarks = [f"{len(states[state])} {state}: {_some(states[state])}" for state in STATES[1:] if state in states]
        context.remark("proxies", "; ".join(remarks))
        ended = progress.ended(time.time())
        context.remark("certificates", f"{len(ended)} have ended: {_some(ended)}" if ended else "")
        # A standby reads the events late.
        overdue.look(newest=newest() if leads() else 0, compiled=progress.compiled, now=time.monotonic())
        late = overdue.seconds > OVERDUE
        context.remark("published", f"events wait for the compiler for {overdue.seconds:.0f} s" if late else "")
        await asyncio.sleep(_INTERVAL)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
