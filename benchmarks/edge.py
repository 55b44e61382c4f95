"""What an xDS edge can do: pushes a second, latency from log to ACK, warm reconnects, memory, start, two workers.

`make bench-edge` measures the short form (up to 1,000 proxies, 1 minute); `make bench-edge ARGS=full` adds 5,000 and
10,000 proxies. The load generator, the publisher and nats-server run on the same machine. "Per core" is per second of
CPU that the edge's processes took, in user and kernel mode and all threads (/proc/PID/stat): what the load generator
takes beside it is not included, and is printed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.edge_mesh import CLASSES, BenchMesh, EdgeProcess, compiled_mesh, mesh
from benchmarks.idle import below, cpu_seconds, memory
from benchmarks.swarm.driver import Swarm, percentiles, swarm
from benchmarks.table import Result, Row

SHORT = (100, 1000)
FULL = (100, 1000, 5000, 10_000)
SWARM_PROCESSES = 2
REPEATS = 20


def run() -> Result:
    """Measure; the sizes by the environment variable SIZES, or `full` among the arguments."""
    sizes = FULL if "full" in sys.argv else SHORT
    if given := os.environ.get("SIZES"):
        sizes = tuple(int(size) for size in given.split(","))
    rows: list[Row] = []
    for size in sizes:
        measured = asyncio.run(_measure(size))
        for row in measured:
            print(f"  {row.what}: {row.figure:g} {row.unit}", file=sys.stderr, flush=True)
        rows += measured
    rows += asyncio.run(_workers(1000))
    rows.append(asyncio.run(_large_start()))
    return Result(name="edge", command="make bench-edge [ARGS=full]", rows=rows)


async def _measure(size: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="meshlog-bench-") as name:
        async with mesh(Path(name), size) as made, made.edge() as edge:
            empty = memory(edge.pid)[0]
            async with swarm(
                made.target(edge), made.proxies(size), processes=SWARM_PROCESSES if size >= 1000 else 1, ramp=1000
            ) as load:
                began = time.monotonic()
                await load.until(lambda r: r.connected >= size and r.types.get(RDS_URL, 0) >= size, within=180)
                rows = [Row(f"{size} proxies: cold start of all", round(time.monotonic() - began, 1), "s")]
                await quiet(load)
                full = memory(edge.pid)[0]
                rows.append(
                    Row(
                        f"{size} proxies: memory of the edge per idle stream",
                        round((full - empty) * 1000 / size, 1),
                        f"kB (edge {full:.0f} MB)",
                        "<= 100 kB whole control plane",
                    )
                )
                for share in (1, 10, CLASSES):
                    rows += await _latency(made, edge, load, size, share)
                rows += await throughput(made, edge, load, size)
                rows += await _restart(edge, load, size)
            return rows


async def _large_start() -> Row:
    """Start an edge that has nothing on disk from a keyframe of a mesh that the compiler compiled."""
    with tempfile.TemporaryDirectory(prefix="meshlog-bench-") as name:
        async with mesh(Path(name), 0) as made:
            snapshot = await asyncio.to_thread(compiled_mesh, 1000)
            await made.publisher.replace(snapshot)
            await made.publisher.keyframe()
            async with made.edge() as edge:
                return Row(
                    "1000 services, 10,000 pods: start from a keyframe in the log, nothing on disk",
                    round(edge.started_in, 2),
                    f"s ({len(snapshot.resources)} resources)",
                    "<= 3 s",
                )


async def _workers(size: int) -> list[Row]:
    """The same change to all, pushed by one process and by two."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="meshlog-bench-") as name:
        async with mesh(Path(name), size) as made:
            proxies = made.proxies(size)
            for workers in (1, 2):
                state = made.directory / f"state-{workers}"
                async with (
                    made.edge(
                        **{"workers": str(workers), "state-dir": str(state), "key-dir": str(state / "key")}
                    ) as edge,
                    swarm(made.target(edge), proxies, ramp=500) as load,
                ):
                    await load.until(lambda r: r.connected >= size and r.types.get(RDS_URL, 0) >= size, within=180)
                    await quiet(load)
                    await load.mark()
                    before = _all_seconds(edge.pid)
                    began = time.monotonic()
                    for number in range(1, 16):
                        await made.publisher.change(CLASSES)
                        await load.until(lambda r, due=number * size: r.acks >= due, within=120, every=0.01)
                    elapsed = time.monotonic() - began
                    taken = [after - before.get(pid, 0.0) for pid, after in _all_seconds(edge.pid).items()]
                    report = await load.report()
                    shares = " + ".join(f"{100 * one / elapsed:.0f}" for one in sorted(taken, reverse=True)[:workers])
                    rows.append(
                        Row(
                            f"{size} proxies, {workers} worker{'s' * (workers > 1)}: push + ACK by the clock",
                            round(report.acks / elapsed),
                            f"/s ({report.acks / sum(taken):.0f}/s and core; workers took {shares} % of a core, "
                            f"swarm {100 * report.cpu / elapsed:.0f} %)",
                        )
                    )
    return rows


def _all_seconds(pid: int) -> dict[int, float]:
    """CPU of a process and of those below it."""
    return {one: cpu_seconds(one) for one in below(pid)}


RDS_URL = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


async def quiet(load: Swarm) -> None:
    """Wait until nothing arrives any more."""
    while True:
        await load.mark()
        await asyncio.sleep(0.5)
        if not (await load.report()).acks:
            return


async def _latency(made: BenchMesh, edge: EdgeProcess, load: Swarm, size: int, share: int) -> list[Row]:
    """Log append → ACK, over some changes that each concern `share` of the 100 classes."""
    concerned = size * share // CLASSES
    waits: list[float] = []
    repeats = max(3, min(REPEATS, 20_000 // max(concerned, 1)))
    for _ in range(repeats):
        await load.mark()
        moment = await made.publisher.change(share)
        report = await load.until(lambda r: r.answered >= concerned, within=60)
        waits += [(at - moment) / 1e6 for at in report.answers.values()]
        await _written(edge)
    p50, p99, p999 = percentiles(waits)
    budget = {(1000, 10): "p50 <= 10 ms, p99 <= 50 ms", (1000, CLASSES): "p99 <= 500 ms"}.get((size, share), "")
    return [
        Row(
            f"{size} proxies, {share} % concerned: append to ACK, p50",
            round(p50, 1),
            f"ms (p99 {p99:.1f}, p99.9 {p999:.1f})",
            budget,
        )
    ]


async def _written(edge: EdgeProcess) -> None:
    """Wait until the edge has nothing left to report, so that changes are measured one by one."""
    last = -1.0
    while True:
        now = await edge.metric("meshlog_edge_status_written_total")
        if now == last:
            return
        last = now
        await asyncio.sleep(0.25)


async def throughput(made: BenchMesh, edge: EdgeProcess, load: Swarm, size: int) -> list[Row]:
    """What a push with its ACK costs the edge, and what it writes about it."""
    await load.mark()
    cpu, began = cpu_seconds(edge.pid), time.monotonic()
    written, volume = await _reported(edge)
    rounds = max(5, 20_000 // size)
    for number in range(1, rounds + 1):
        await made.publisher.change(CLASSES)
        await load.until(lambda r, due=number * size: r.acks >= due, within=120, every=0.02)
    elapsed = time.monotonic() - began
    share = cpu_seconds(edge.pid) - cpu
    report = await load.report()
    await _written(edge)
    whole = cpu_seconds(edge.pid) - cpu
    now_written, now_volume = await _reported(edge)
    rows = [
        Row(
            f"{size} proxies: push + ACK per second of the edge's CPU",
            round(report.acks / share),
            f"/s ({report.acks / elapsed:.0f}/s by the clock, edge {100 * share / elapsed:.0f} % of a core, "
            f"swarm {100 * report.cpu / elapsed:.0f} %)",
            ">= 8000",
        ),
        Row(
            f"{size} proxies: the same with all reports written",
            round(report.acks / whole),
            f"/s ({(now_written - written) / rounds / size:.2f} reports a push)",
        ),
    ]
    written, volume = await _reported(edge)
    await made.publisher.change(CLASSES)
    await _written(edge)
    now_written, now_volume = await _reported(edge)
    rows.append(
        Row(
            f"{size} proxies: reports written about one change to all",
            round(now_written - written),
            f"messages ({(now_volume - volume) / 1e6:.2f} MB)",
            "<= 1 a proxy",
        )
    )
    return rows


async def _reported(edge: EdgeProcess) -> tuple[float, float]:
    """Reports written so far, and their bytes."""
    return (
        await edge.metric("meshlog_edge_status_written_total"),
        await edge.metric("meshlog_edge_status_written_bytes_total"),
    )


async def _restart(edge: EdgeProcess, load: Swarm, size: int) -> list[Row]:
    """Kill the edge, start it, and wait until every proxy is connected again."""
    await load.mark()
    await edge.kill()
    await load.until(lambda r: r.connected == 0, within=30)
    ready = await edge.start()
    began = time.monotonic()
    while await edge.metric("meshlog_edge_synced_streams") < size:
        if time.monotonic() - began > 300:
            raise TimeoutError(f"{await edge.metric('meshlog_edge_synced_streams')} of {size} are back")
        await asyncio.sleep(0.2)
    back = time.monotonic() - began
    report = await load.report()
    return [
        Row(f"{size} proxies: start of an edge from its disk and the log", round(ready, 2), "s", "<= 3 s"),
        Row(
            f"{size} proxies: warm reconnect of all",
            round(back, 1),
            f"s after it was ready ({report.resources} resources resent)",
            "5,000 in <= 15 s, 0 resent" if size == 5000 else "",
        ),
    ]
