"""Composition of the compiler: its log, lease and publisher, and what they report to metrics and readiness."""

from __future__ import annotations

import asyncio

from services.compiler.core.compiler import Compiler
from services.compiler.log.keyframe_writer import KeyframePolicy
from services.compiler.log.publisher import Publisher
from services.compiler.log.snapshot_store import HistoryRetention, SnapshotStore
from services.compiler.mesh_state import MeshSettings
from services.compiler.settings import CompilerSettings
from shared.names import MESH_CONFIG
from shared.policy.budgets import budgets_of
from shared.service import lease_report
from shared.service.lease import Lease
from shared.service.process import Context
from shared.streams.jetstream import JetStreamLogs

_NAMED = 5
"""Objects that a remark of readiness names at most."""


class App:
    """One compiler process."""

    def __init__(self, context: Context[CompilerSettings]) -> None:
        settings = context.settings
        self._context = context
        self._logs = JetStreamLogs.from_settings(settings, name=f"compiler {context.instance}")
        context.count_foreign(self._logs.foreign)
        self._mesh = MeshSettings(
            cluster=settings.cluster,
            mesh_name=settings.mesh_name,
            namespace=settings.namespace,
            trust_domain=settings.trust_domain,
            service_domain=settings.service_domain,
            budgets=budgets_of(settings.budgets),
        )
        self._compile_seconds = context.metrics.histogram("meshlog_compiler_compile_seconds", "Time of one compile.")
        self._lease: Lease | None = None

    async def run(self) -> None:
        """Compile and publish until the process stops; then release the lease and close the log."""
        try:
            self._context.spawn(self._work(), "publication")
            await self._context.stopping.wait()
            if self._lease is not None:
                await self._lease.release()
        finally:
            await self._context.cancel_parts()
            await self._logs.close()

    async def _work(self) -> None:
        settings, streams = self._context.settings, self._context.settings.streams
        lease = self._lease = Lease(
            await self._logs.open(streams.leases),
            subject=streams.lease_subject("compiler"),
            instance=self._context.instance,
            ttl=settings.lease_ttl,
        )
        events = await self._logs.open(streams.events)
        snapshots = SnapshotStore(
            await self._logs.open(streams.snapshots), await self._logs.open(streams.keyframes), streams
        )
        publisher = Publisher(
            events,
            snapshots,
            scope=streams.cluster_scope(settings.cluster),
            compiler=lambda: Compiler(self._mesh),
            ready=self._context.ready,
            limits=KeyframePolicy(
                commits=settings.keyframe_commits,
                bytes=settings.keyframe_bytes,
                kept=HistoryRetention(seconds=settings.history, keyframes=settings.history_keyframes),
            ),
            compiled=self._compile_seconds.record,
            leads=lambda: lease.held,
            wants=lambda wants: lease.campaign() if wants else lease.stand_aside(),
        )
        lease.changed = publisher.wake
        lease.reached = lambda: publisher.reached
        self._expose(publisher, lease)
        self._context.spawn(lease.run(), "lease")
        await publisher.run()

    def _expose(self, publisher: Publisher, lease: Lease) -> None:
        """Register the metrics, and keep the remarks of readiness up to date."""
        metrics, counts, snapshots = self._context.metrics, publisher.tally, publisher.snapshots
        lease_report.report(self._context, lease, leads="meshlog_compiler_leads")
        for name, text, value in (
            ("meshlog_compiler_events", "Events folded by this process.", lambda: counts.events),
            ("meshlog_compiler_events_skipped", "Events that could not be read.", lambda: counts.skipped),
            (
                "meshlog_compiler_needs_newer_build",
                "1 while this process stops before an event of a newer build.",
                lambda: float(bool(publisher.newer)),
            ),
            ("meshlog_compiler_commits", "Commits published by this process.", lambda: counts.commits),
            ("meshlog_compiler_commit_bytes", "Bytes of those commits.", lambda: counts.bytes),
            ("meshlog_compiler_resources", "Resources rendered into those commits.", lambda: counts.resources),
            (
                "meshlog_compiler_quarantined",
                "Objects left out of the newest version.",
                lambda: len(snapshots.published.quarantine),
            ),
            (
                "meshlog_compiler_pinned",
                "1 while a pin holds newer policy back.",
                lambda: float(publisher.compiler.pinned),
            ),
            (
                "meshlog_compiler_mesh_config_missing",
                "1 while the mesh has no MeshConfig: the defaults are in force.",
                lambda: float(_lacks_mesh_config(publisher)),
            ),
            ("meshlog_compiler_failures", "Queries that failed by a bug of ours.", lambda: counts.failures),
            ("meshlog_compiler_keyframes", "Whole snapshots written by this process.", lambda: counts.keyframes),
            ("meshlog_compiler_refused", "Commits refused: another compiler had published.", lambda: counts.refused),
            ("meshlog_compiler_history_from", "Oldest version that is kept.", lambda: counts.history_from),
            ("meshlog_compiler_version", "Version of the published snapshot.", lambda: snapshots.published.version),
        ):
            metrics.gauge(name, text, value)
        self._context.spawn(self._remark(publisher), "remarks")

    async def _remark(self, publisher: Publisher) -> None:
        """Show in `/readyz` which applied objects are not in force, once a second."""
        context = self._context
        while True:
            left_out = publisher.snapshots.published.quarantine
            names = ", ".join(str(one.key) for one in left_out[:_NAMED]) + (
                " and more" if len(left_out) > _NAMED else ""
            )
            context.remark("left out", f"{len(left_out)}: {names}" if left_out else "")
            pinned = publisher.compiler.pinned
            context.remark("pin", "policy of the past is in force, newer is recorded only" if pinned else "")
            missing = _lacks_mesh_config(publisher)
            context.remark("mesh-config", f"{MESH_CONFIG} is not there: the defaults are in force" if missing else "")
            await asyncio.sleep(1.0)


def _lacks_mesh_config(publisher: Publisher) -> bool:
    """Whether the mesh has no MeshConfig; false until the events have been read."""
    return bool(publisher.reached) and publisher.compiler.lacks_mesh_config


async def serve(context: Context[CompilerSettings]) -> None:
    """Run the compiler in a process until the process stops."""
    context.ready("events", False, "connecting to the log")
    await App(context).run()
