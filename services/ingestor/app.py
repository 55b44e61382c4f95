"""Composes the ingestor: reflectors, writer and status reports over one API server and one log."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from services.ingestor.core.kinds import REPORTED, TOKEN_ISSUER, kinds
from services.ingestor.core.observations import Observation
from services.ingestor.core.reflector import SILENCE, Reflector
from services.ingestor.instruments import register_metrics, register_report_metrics
from services.ingestor.kubernetes.api_probe import ApiProbe
from services.ingestor.kubernetes.client import KubernetesSource
from services.ingestor.kubernetes.object_source import ObjectSource
from services.ingestor.kubernetes.reflector_runner import ReflectorRunner
from services.ingestor.kubernetes.status_client import ApiSender, StatusWriter
from services.ingestor.kubernetes.token_issuer import IssuerPoller
from services.ingestor.log.compaction import Compactor
from services.ingestor.log.event_writer import EventWriter, WriterPolicy
from services.ingestor.log.leadership import Leadership
from services.ingestor.log.round_appender import Identifiers
from services.ingestor.log.witness import StreamWitness, Witness
from services.ingestor.settings import IngestorSettings
from services.ingestor.status.ack_progress import AckProgress
from services.ingestor.status.condition_reporter import ConditionReporter
from services.ingestor.status.log_follower import StatusLogFollower
from services.ingestor.status.mesh_metrics import register_mesh_metrics
from shared.eventlog.epoch import new_epoch
from shared.eventlog.protocol import EventLog, Logs
from shared.names import INGESTOR
from shared.service import lease_report, process
from shared.service.lease import Lease
from shared.streams.jetstream import JetStreamLogs
from shared.telemetry import traces

_READINESS_INTERVAL = 2.0
"""Seconds between two evaluations of readiness without a change."""

Context = process.Context[IngestorSettings]
Part = tuple[str, Coroutine[Any, Any, None]]
"""A task of the ingestor and its name."""


class App:
    """One replica of the ingestor. Run all `parts`."""

    def __init__(
        self,
        source: ObjectSource,
        log: EventLog,
        settings: IngestorSettings,
        leadership: Leadership | None = None,
        witness: Witness | None = None,
    ) -> None:
        """`log`: the stream of events. Without `leadership` it always leads."""
        loop = asyncio.get_running_loop()
        watched = kinds(mesh_namespace=settings.namespace)
        self.writer = EventWriter(
            log,
            cluster=settings.cluster,
            streams=settings.streams,
            kinds=[*(kind.name for kind in watched), TOKEN_ISSUER],
            clock=loop.time,
            ids=Identifiers(new_epoch=new_epoch, new_traceparent=_begin_trace),
            reflectors=self,
            leadership=leadership,
            witness=witness,
            policy=WriterPolicy(queue=settings.queue, panic=settings.panic, gather=settings.gather),
            compactor=Compactor(
                log,
                settings.streams.cluster_scope(settings.cluster),
                window=settings.history,
                slack=settings.history_slack,
            ),
        )
        self.observe: Callable[[Observation], None] = lambda _observation: None
        """Receives each observation of a reflector, before the writer does."""
        self.issuer = IssuerPoller(source, self.writer.put, every=settings.issuer_every)
        self.runners = {
            kind.name: ReflectorRunner(
                kind,
                Reflector(kind.name, jitter=random.random),
                source,
                self._take,
                clock=loop.time,
                silence=settings.silence,
                listed=self.issuer.read_soon if kind.name == "Namespace" else lambda: None,
            )
            for kind in watched
        }

    def parts(self) -> list[Part]:
        """Returns the tasks of the ingestor; each runs for ever."""
        return [
            ("writer", self.writer.run()),
            ("token issuer", self.issuer.run()),
            *((f"reflector {name}", runner.run()) for name, runner in self.runners.items()),
        ]

    def unready(self) -> str:
        """Returns why the log may differ from the cluster; empty if it does not."""
        if self.writer.trouble:
            return self.writer.trouble
        failing = sorted(
            name
            for name, runner in self.runners.items()
            if runner.reflector.failing and runner.reflector.failing != SILENCE
        )
        if failing:
            why = self.runners[failing[0]].reflector.failing
            return f"cannot follow {', '.join(failing)} ({why})"
        missing = sorted({*self.runners, TOKEN_ISSUER} - self.writer.settled)
        return f"not in the log yet: {', '.join(missing)}" if missing else ""

    def relist(self, kind: str, *, confirming: bool) -> None:
        """List a kind again (see `Reflectors`); the token issuer is read again."""
        if kind == TOKEN_ISSUER:
            self.issuer.read_soon()
        else:
            self.runners[kind].relist(confirming=confirming)

    async def _take(self, observation: Observation) -> None:
        self.observe(observation)
        await self.writer.put(observation)


def _begin_trace() -> str:
    """Begin the trace of a change in Kubernetes, which continues up to the proxies' acknowledgements."""
    with traces.span("change") as span:
        return span.traceparent


async def serve(context: Context) -> None:
    """Run the ingestor until the process is stopped."""
    settings = context.settings
    context.ready("cluster", ready=False, why="starting")
    source = await KubernetesSource.connect(settings.kubeconfig)
    logs = JetStreamLogs.from_settings(settings, name=INGESTOR)
    context.count_foreign(logs.foreign)
    try:
        streams = settings.streams
        lease = Lease(
            await logs.open(streams.leases),
            subject=streams.lease_subject(f"ingestor-{settings.cluster}"),
            instance=context.instance,
            ttl=settings.lease_ttl,
        )
        witness = await StreamWitness.open(logs, streams, settings.cluster)
        app = App(source, await logs.open(streams.events), settings, lease, witness)
        lease.changed = app.writer.wake
        app.observe = await _report_statuses(context, logs, source, app.writer, lease)
        register_metrics(context.metrics, app.writer, app.runners)
        lease_report.report(context, lease, leads="meshlog_ingestor_leads")
        context.spawn(lease.run(), "lease")
        for name, part in app.parts():
            context.spawn(part, name)
        probe = ApiProbe(source.answers)
        context.spawn(probe.run(), "api probe")
        context.spawn(_watch_readiness(context, app, probe), "readiness")
        await context.stopping.wait()
        await lease.release()
    finally:
        await context.cancel_parts()
        await logs.close()
        await source.close()


async def _report_statuses(
    context: Context, logs: Logs, api: ApiSender, writer: EventWriter, leadership: Leadership
) -> Callable[[Observation], None]:
    """Start the reports on policy objects; returns the receiver of every observation."""
    settings = context.settings
    streams = settings.streams
    watched = {kind.name: kind for kind in kinds(mesh_namespace=settings.namespace)}
    progress = AckProgress(cluster=settings.cluster, kinds=REPORTED)
    client = StatusWriter(api, watched, now=_now)
    reporter = ConditionReporter(
        progress,
        writer.index,
        client,
        client.write_event,
        cluster=settings.cluster,
        kinds=REPORTED,
        mesh_namespace=settings.namespace,
        now=_now,
        clock=asyncio.get_running_loop().time,
        leads=lambda: leadership.held,
    )
    follower = StatusLogFollower(progress, reporter, streams)
    snapshots, keyframes, statuses, leases, events = [
        await logs.open(name)
        for name in (streams.snapshots, streams.keyframes, streams.status, streams.leases, streams.events)
    ]
    context.spawn(follower.follow_commits(snapshots, keyframes), "commits")
    context.spawn(follower.follow_statuses(statuses), "statuses")
    context.spawn(follower.follow_progress(leases), "progress")
    context.spawn(follower.follow_pin(events, settings.cluster), "pin")
    context.spawn(reporter.run(), "reports")
    context.spawn(reporter.run_events(), "events of objects")
    register_report_metrics(context.metrics, reporter)
    register_mesh_metrics(context, progress, leads=lambda: leadership.held, newest=lambda: writer.newest)
    return reporter.note


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _watch_readiness(context: Context, app: App, probe: ApiProbe) -> None:
    """Keep `/readyz` current: at once when the ingestor becomes ready, within seconds when it ceases to be."""
    progress = app.writer.progress
    while True:
        progress.clear()
        probe.changed.clear()
        why = probe.trouble or app.unready()
        context.ready("cluster", ready=not why, why=why)
        try:
            async with asyncio.timeout(_READINESS_INTERVAL):
                await (progress if why else probe.changed).wait()
        except TimeoutError:
            continue
