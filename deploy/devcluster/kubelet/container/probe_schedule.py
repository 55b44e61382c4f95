"""Schedules probes and evaluates their results: periods, thresholds and initial delays as on Kubernetes.

One difference: until a startup or readiness probe first succeeds, it runs more often than `periodSeconds`: first every
100 ms, growing to the period. Containers on one machine start in milliseconds, and a start should not take a whole
period. The time limit of a start is unchanged: failureThreshold times periodSeconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.kubelet.container.probe_check import ProbeResult
from shared.timing.backoff import Backoff

Check = Callable[[], Awaitable[ProbeResult]]
Sleep = Callable[[float], Awaitable[None]]


def _eager(period: float) -> Backoff:
    """The pauses before the first success."""
    return Backoff(first=min(0.1, period), longest=period, factor=1.1)


class ProbeSchedule:
    """The numbers of a probe, with Kubernetes' defaults."""

    def __init__(self, probe: Obj) -> None:
        self.initial_delay: float = probe.get("initialDelaySeconds") or 0
        self.period: float = probe.get("periodSeconds") or 10
        self.successes: int = probe.get("successThreshold") or 1
        self.failures: int = probe.get("failureThreshold") or 3


async def until_started(probe: Obj, check: Check, *, sleep: Sleep, clock: Callable[[], float]) -> ProbeResult:
    """Probe until the container has started or its time is up. Returns the last result."""
    rhythm = ProbeSchedule(probe)
    await sleep(rhythm.initial_delay)
    deadline = clock() + rhythm.failures * rhythm.period
    pauses = _eager(rhythm.period).delays()
    while True:
        outcome = await check()
        left = deadline - clock()
        if outcome.success or left <= 0:
            return outcome
        await sleep(min(pauses.next(), left))


async def watch_readiness(
    probe: Obj, check: Check, report: Callable[[bool, str], None], *, sleep: Sleep = asyncio.sleep
) -> None:
    """Probe for ever; call `report` for every change, and for every failure below the threshold."""
    rhythm = ProbeSchedule(probe)
    await sleep(rhythm.initial_delay)
    ready, was_ready, row = False, False, 0
    pauses = _eager(rhythm.period).delays()
    while True:
        outcome = await check()
        row = 0 if outcome.success is ready else row + 1
        if row >= (rhythm.successes if outcome.success else rhythm.failures):
            ready, row = outcome.success, 0
            was_ready = was_ready or ready
            report(ready, outcome.message)
        elif not outcome.success:
            report(ready, outcome.message)
        if was_ready:
            await sleep(rhythm.period)
        else:
            await sleep(pauses.next())


async def until_dead(probe: Obj, check: Check, *, sleep: Sleep = asyncio.sleep) -> ProbeResult:
    """Probe until `failureThreshold` consecutive failures. Returns the last result."""
    rhythm = ProbeSchedule(probe)
    await sleep(rhythm.initial_delay)
    row = 0
    while True:
        outcome = await check()
        row = 0 if outcome.success else row + 1
        if row >= rhythm.failures:
            return outcome
        await sleep(rhythm.period)
