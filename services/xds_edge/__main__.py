"""The xDS edge as a process: `meshlog run xds-edge`."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Sequence

from services.xds_edge.app import App
from services.xds_edge.limits.memory_trim import reclaim, trimmer
from services.xds_edge.settings import EdgeSettings
from services.xds_edge.workers import supervise
from shared.service import process
from shared.service.process import Context
from shared.streams.jetstream import JetStreamLogs


async def serve(context: Context[EdgeSettings]) -> None:
    """Serve proxies until the process is asked to stop."""
    edge = App(context.settings, instance=context.instance, ready=context.ready, remark=context.remark)
    edge.counters.expose(context.metrics, version=lambda: edge.fleet.version)
    edge.server.expose(context.metrics)
    context.metrics.gauge(
        "meshlog_edge_synced_streams", "Streams whose proxy holds all that it should.", lambda: edge.fleet.synced
    )
    context.metrics.gauge(
        "meshlog_edge_status_written_total", "Reports about proxies written.", lambda: edge.reporter.written
    )
    context.metrics.gauge(
        "meshlog_edge_status_written_bytes_total",
        "Bytes of the reports about proxies written.",
        lambda: edge.reporter.written_bytes,
    )
    context.metrics.gauge(
        "meshlog_edge_behind",
        "1 while commits are lost and the last good snapshot is served.",
        lambda: int(edge.behind),
    )
    context.metrics.gauge(
        "meshlog_edge_needs_newer_build",
        "1 while the last good snapshot is served because newer ones are of a newer build's format.",
        lambda: int(bool(edge.fleet.stuck)),
    )
    context.metrics.gauge(
        "meshlog_edge_unanswered_requests",
        "Signing requests that have waited for an answer of the CA for more than 2 s.",
        lambda: edge.unanswered,
    )
    logs = JetStreamLogs.from_settings(context.settings, name=f"xds-edge {context.instance}")
    context.count_foreign(logs.foreign)
    edge.load()
    _spare_the_collector()
    context.spawn(edge.attach(logs, context.spawn), "log")
    context.spawn(edge.listen(), "server")
    context.spawn(reclaim(lambda: edge.server.gone + edge.server.ledger.overflows, trimmer()), "memory")
    context.spawn(edge.confirm_or_trust_disk(), "last good snapshot")
    context.spawn(_remark(context, edge), "remarks")
    await context.stopping.wait()
    await edge.stop()
    await logs.close()


async def _remark(context: Context[EdgeSettings], edge: App) -> None:
    """Have `/readyz` report how many proxies wait for a certificate."""
    while True:
        waiting = edge.unanswered
        context.remark("signing", f"{waiting} signing requests wait: no CA answers them" if waiting else "")
        await asyncio.sleep(1.0)


def _spare_the_collector() -> None:
    """Have the cyclic garbage collector run less often, and skip the objects that stay.

    Streams make few cycles, but thousands of streams are millions of objects to scan. With the defaults of Python the
    collector took a quarter of a busy edge's time.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def main(argv: Sequence[str]) -> int:
    """Run the edge; returns the exit code."""

    async def run(context: Context[EdgeSettings]) -> None:
        if context.settings.workers > 1:
            await supervise(context, argv)
        else:
            await serve(context)

    return process.main("xds-edge", EdgeSettings, run, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
