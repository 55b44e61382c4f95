"""Reports the state of a lease: by `/readyz`, by metrics and in the lease itself.

A service without a leader does nothing, however many replicas of it run. So a replica is not ready while none leads;
and the leader's lease contains what keeps it from its work, because people can read the log from anywhere.
"""

from __future__ import annotations

import asyncio

from shared.service.lease import Lease
from shared.service.process import C, Context

PATIENCE = 1.5
"""Seconds without a leader after which a replica is not ready: longer than a takeover."""
_LOOK = 0.25
_NAME = "lease"


def report(context: Context[C], claim: Lease, *, leads: str) -> None:
    """Show the lease in health and metrics; `leads` is the metric family of whether this process leads."""
    service = (("service", context.service),)
    context.ready(_NAME, ready=False, why="no replica leads yet")
    claim.trouble = lambda: "; ".join(
        sentence for name, sentence in sorted(context.readiness.why_not.items()) if name != _NAME
    )
    gauge = context.metrics.gauge
    gauge(leads, "Whether this process does what one replica alone does.", lambda: float(claim.held))
    gauge(
        "meshlog_lease_vacant",
        "1 while no replica holds the lease, as this process sees it.",
        lambda: {service: float(claim.vacant > PATIENCE)},
    )
    gauge(
        "meshlog_leader_trouble",
        "1 while this process leads and something keeps it from its work: /readyz says what.",
        lambda: {service: float(claim.held and bool(claim.trouble()))},
    )
    context.spawn(_watch(context, claim), "readiness of the lease")


async def _watch(context: Context[C], claim: Lease) -> None:
    while True:
        vacant = claim.vacant
        if not vacant:
            context.ready(_NAME, ready=True)
        elif vacant > PATIENCE:
            context.ready(_NAME, ready=False, why=f"no replica has led for {vacant:.0f} s: the lease is not renewed")
        await asyncio.sleep(_LOOK)
