"""The driver of a swarm: starts its processes, sends them commands, adds up their reports."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from benchmarks.swarm.fleet import Command, Plan, Report
from benchmarks.swarm.proxy import Target
from shared.service.interpreter import module


class Swarm:
    """A running swarm."""

    def __init__(self, processes: list[asyncio.subprocess.Process], size: int) -> None:
        self._processes = processes
        self.size = size

    async def mark(self) -> int:
        """Count from zero; returns the moment, in nanoseconds since 1970."""
        await self._tell("mark")
        return time.time_ns()

    async def report(self) -> Report:
        """What was seen since the mark."""
        return await self._tell("report")

    async def until(self, holds: Callable[[Report], bool], *, within: float, every: float = 0.1) -> Report:
        """Ask every so many seconds until something holds, of the counts alone; then give the whole report.

        Raises `TimeoutError` with the last counts.
        """
        deadline = time.monotonic() + within
        while not holds(counts := await self._tell("count")):
            if time.monotonic() > deadline:
                raise TimeoutError(counts)
            await asyncio.sleep(every)
        return await self.report()

    async def _tell(self, what: str) -> Report:
        line = msgspec.json.encode(Command(what)) + b"\n"
        reports: list[Report] = []
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(line)
        for process in self._processes:
            assert process.stdout is not None
            answer = await process.stdout.readline()
            reports.append(msgspec.json.decode(answer, type=Report))
        return added(reports)


def added(reports: Sequence[Report]) -> Report:
    """One report of all."""
    return Report(
        **{
            name: sum(getattr(report, name) for report in reports)
            for name in ("connected", "acks", "resources", "bytes", "opened", "ended", "failed", "answered", "cpu")
        },
        answers={number: at for report in reports for number, at in report.answers.items()},
        first={number: at for report in reports for number, at in report.first.items()},
        types=dict(sum((Counter(report.types) for report in reports), Counter[str]())),
    )


def percentiles(milliseconds: Sequence[float]) -> tuple[float, float, float]:
    """p50, p99 and p99.9; zeros of nothing."""
    ordered = sorted(milliseconds)
    if not ordered:
        return 0.0, 0.0, 0.0
    last = len(ordered) - 1
    return ordered[round(last * 0.5)], ordered[round(last * 0.99)], ordered[round(last * 0.999)]


@contextlib.asynccontextmanager
async def swarm(
    target: Target,
    proxies: Sequence[tuple[str, str]],
    *,
    processes: int = 1,
    ramp: float = 0.0,
    slow: int = 0,
    churn: float = 0.0,
) -> AsyncGenerator[Swarm]:
    """Start a swarm of these (node id, token); it ends with the block. Rates and numbers are of the whole swarm."""
    started: list[asyncio.subprocess.Process] = []
    numbered = [(number, node, token) for number, (node, token) in enumerate(proxies)]
    try:
        for index in range(processes):
            process = await asyncio.create_subprocess_exec(
                *module("benchmarks.swarm.fleet"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=256 * 1024 * 1024,
            )
            started.append(process)
            plan = Plan(
                target=target,
                proxies=numbered[index::processes],
                ramp=ramp / processes,
                slow=slow // processes + (index < slow % processes),
                churn=churn / processes,
            )
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(plan) + b"\n")
        yield Swarm(started, len(proxies))
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()
