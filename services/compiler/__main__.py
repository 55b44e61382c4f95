"""`meshlog run compiler`: settings, the log, metrics."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from services.compiler.core.compiler import Compiler
from services.compiler.log.publisher import KeyframePolicy, Publisher
from services.compiler.log.snapshot_store import HistoryRetention, SnapshotStore
from services.compiler.mesh_state import MeshSettings
from shared.names import MESH_CONFIG
from shared.policy.budgets import budgets_of
from shared.service import lease_report, process
from shared.service.lease import TTL, Lease
from shared.service.process import Context
from shared.service.settings import CommonSettings
from shared.streams.jetstream import JetStreamLogs

_NAMED = 5
"""Objects that a remark names."""


class CompilerSettings(CommonSettings, frozen=True, kw_only=True):
    """The compiler: from events to the configuration of every proxy."""

    service_domain: str = "cluster.local"
    """DNS domain of Services."""
    keyframe_commits: int = 200
    """Commits after which a whole snapshot is written."""
    keyframe_bytes: int = 8 << 20
    """Bytes of commits after which a whole snapshot is written."""
    history: float = 7 * 86400.0
    """Seconds of the past that can be rebuilt; commits and keyframes before that are forgotten."""
    history_keyframes: int = 20
    """Keyframes that are kept at most, whatever `history` says."""
    lease_ttl: float = TTL
    """Seconds after which a standby takes over from a leader that says nothing any more."""


async def serve(context: Context[CompilerSettings]) -> None:
    """Compile and publish until it is told to stop."""
    settings = context.settings
    context.ready("events", False, "connecting to the log")
    logs = JetStreamLogs.from_settings(settings, name=f"compiler {context.instance}")
    context.count_foreign(logs.foreign)
    streams = settings.streams
    mesh = MeshSettings(
        cluster=settings.cluster,
        mesh_name=settings.mesh_name,
        namespace=settings.namespace,
        trust_domain=settings.trust_domain,
        service_domain=settings.service_domain,
        budgets=budgets_of(settings.budgets),
    )
    seconds = context.metrics.histogram("meshlog_compiler_compile_seconds", "Time of one compile.")

    claim: Lease | None = None

    async def work() -> None:
        nonlocal claim
        leader = claim = Lease(
            await logs.open(streams.leases),
            subject=streams.lease_subject("compiler"),
            instance=context.instance,
            ttl=settings.lease_ttl,
        )
        events = await logs.open(streams.events)
        snapshots = SnapshotStore(await logs.open(streams.snapshots), await logs.open(streams.keyframes), streams)
        publication = Publisher(
            events,
            snapshots,
            scope=streams.cluster_scope(settings.cluster),
            compiler=lambda: Compiler(mesh),
            ready=context.ready,
            limits=KeyframePolicy(
                commits=settings.keyframe_commits,
                bytes=settings.keyframe_bytes,
                kept=HistoryRetention(seconds=settings.history, keyframes=settings.history_keyframes),
            ),
            compiled=seconds.record,
            leads=lambda: leader.held,
            wants=lambda wants: leader.campaign() if wants else leader.stand_aside(),
        )
        claim.changed = publication.wake
        claim.reached = lambda: publication.reached
        _measure(context, publication, claim)
        context.spawn(claim.run(), "lease")
        await publication.run()

    try:
        context.spawn(work(), "publication")
        await context.stopping.wait()
        if claim is not None:
            await claim.release()
    finally:
        await context.cancel_parts()
        await logs.close()


def _measure(context: Context[CompilerSettings], publication: Publisher, claim: Lease) -> None:
    metrics, tally = context.metrics, publication.tally
    lease_report.report(context, claim, leads="meshlog_compiler_leads")
    metrics.gauge("meshlog_compiler_events", "Events folded by this process.", lambda: tally.events)
    metrics.gauge("meshlog_compiler_events_skipped", "Events that could not be read.", lambda: tally.skipped)
    metrics.gauge(
        "meshlog_compiler_needs_newer_build",
        "1 while this process stops before an event of a newer build.",
        lambda: float(bool(publication.newer)),
    )
    metrics.gauge("meshlog_compiler_commits", "Commits published by this process.", lambda: tally.commits)
    metrics.gauge("meshlog_compiler_commit_bytes", "Bytes of those commits.", lambda: tally.bytes)
    metrics.gauge("meshlog_compiler_resources", "Resources rendered into those commits.", lambda: tally.resources)
    published = publication.snapshots
    metrics.gauge(
        "meshlog_compiler_quarantined",
        "Objects left out of the newest version.",
        lambda: len(published.published.quarantine),
    )
    metrics.gauge(
        "meshlog_compiler_pinned", "1 while a pin holds newer policy back.", lambda: float(publication.compiler.pinned)
    )
    metrics.gauge(
        "meshlog_compiler_mesh_config_missing",
        "1 while the mesh has no MeshConfig: the defaults are in force.",
        lambda: float(_lacks_mesh_config(publication)),
    )
    context.spawn(_remark(context, publication), "remarks")
    metrics.gauge("meshlog_compiler_failures", "Queries that failed by a bug of ours.", lambda: tally.failures)
    metrics.gauge("meshlog_compiler_keyframes", "Whole snapshots written by this process.", lambda: tally.keyframes)
    metrics.gauge("meshlog_compiler_refused", "Commits refused: another compiler had published.", lambda: tally.refused)
    metrics.gauge("meshlog_compiler_history_from", "Oldest version that is kept.", lambda: tally.history_from)
    metrics.gauge(
        "meshlog_compiler_version",
        "Version of the published snapshot.",
        lambda: publication.snapshots.published.version,
    )


async def _remark(context: Context[CompilerSettings], publication: Publisher) -> None:
    """Have `/readyz` tell of what is not in force although it was applied."""
    while True:
        out = publication.snapshots.published.quarantine
        names = ", ".join(str(one.key) for one in out[:_NAMED]) + (" and more" if len(out) > _NAMED else "")
        context.remark("left out", f"{len(out)}: {names}" if out else "")
        pinned = publication.compiler.pinned
        context.remark("pin", "policy of the past is in force, newer is recorded only" if pinned else "")
        missing = _lacks_mesh_config(publication)
        context.remark("mesh-config", f"{MESH_CONFIG} is not there: the defaults are in force" if missing else "")
        await asyncio.sleep(1.0)


def _lacks_mesh_config(publication: Publisher) -> bool:
    """Whether it is known not to be there: the events have been read."""
    return bool(publication.reached) and publication.compiler.lacks_mesh_config


def main(argv: Sequence[str]) -> int:
    """Run the compiler; the result is the exit code."""
    return process.main("compiler", CompilerSettings, serve, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
