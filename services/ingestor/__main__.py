"""`meshlog run ingestor`: settings, wiring, readiness. Everything that decides is in the modules beside it."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Sequence

from services.ingestor.core.kinds import TOKEN_ISSUER, kinds
from services.ingestor.core.observations import Fact
from services.ingestor.core.reflector import Reflector
from services.ingestor.kubernetes.api_probe import Pulse
from services.ingestor.kubernetes.client import KubernetesSource
from services.ingestor.kubernetes.reflector_runner import Runner
from services.ingestor.kubernetes.source import Source
from services.ingestor.kubernetes.status_client import report
from services.ingestor.kubernetes.token_issuer import IssuerPoller
from services.ingestor.log.chain_position import Compiled, Witness, newest_version
from services.ingestor.log.compaction import Retention
from services.ingestor.log.epoch_carryover import Carried, nothing, pins_of
from services.ingestor.log.writer import Patience, Writer
from services.ingestor.settings import IngestorSettings
from shared.eventlog.epoch import new_epoch
from shared.eventlog.protocol import EventLog
from shared.names import INGESTOR
from shared.service import lease_report, process
from shared.service.lease import Lease
from shared.streams.jetstream import JetStreamLogs
from shared.telemetry import traces

_LOOK = 2.0


class Ingestor:
    """The parts of one ingestor, wired."""

    def __init__(
        self,
        source: Source,
        log: EventLog,
        settings: IngestorSettings,
        claim: Lease | None = None,
        witness: Witness | None = None,
        *,
        carried: Carried = nothing,
    ) -> None:
        """Without a `claim` it leads always. `witness`, `carried`: see `Writer`."""
        loop = asyncio.get_running_loop()
        watched = kinds(mesh_namespace=settings.namespace)
        self.writer = Writer(
            log,
            cluster=settings.cluster,
            streams=settings.streams,
            kinds=[*(kind.name for kind in watched), TOKEN_ISSUER],
            clock=loop.time,
            new_id=new_epoch,
            new_traceparent=_begin_trace,
            doubt=self._doubt,
            queue=settings.queue,
            panic=settings.panic,
            patience=Patience(gather=settings.gather),
            witness=witness,
            carried=carried,
            retention=Retention(
                log,
                settings.streams.cluster_scope(settings.cluster),
                window=settings.history,
                slack=settings.history_slack,
            ),
            leads=lambda: claim is None or claim.held,
            warmed=claim.campaign if claim is not None else lambda: None,
            unfit=claim.stand_aside if claim is not None else lambda: None,
        )
        if claim is not None:
            claim.changed = self.writer.wake
        self.observe: Callable[[Fact], None] = lambda _fact: None
        """Told of every fact, before the writer."""
        self.issuer = IssuerPoller(source, self.writer.put, every=settings.issuer_every)
        self.runners = {
            kind.name: Runner(
                kind,
                Reflector(kind.name, jitter=random.random),
                source,
                self._take,
                clock=loop.time,
                silence=settings.silence,
                listed=self.issuer.poke if kind.name == "Namespace" else lambda: None,
            )
            for kind in watched
        }

    def unready(self) -> str:
        """Why the log may not be what the cluster is; empty: it is."""
        if self.writer.trouble:
            return self.writer.trouble
        failing = sorted(
            name
            for name, runner in self.runners.items()
            if runner.reflector.failing and runner.reflector.failing != "silence"
        )
        if failing:
            why = self.runners[failing[0]].reflector.failing
            return f"cannot follow {', '.join(failing)} ({why})"
        missing = sorted({*self.runners, TOKEN_ISSUER} - self.writer.settled)
        return f"not in the log yet: {', '.join(missing)}" if missing else ""

    async def _take(self, fact: Fact) -> None:
        self.observe(fact)
        await self.writer.put(fact)

    def _doubt(self, kind: str, confirming: bool) -> None:  # noqa: FBT001 (a callback of two plain values)
        if kind == TOKEN_ISSUER:
            self.issuer.poke()
        else:
            self.runners[kind].doubt(confirming=confirming)


def _begin_trace() -> str:
    """A change in Kubernetes begins a trace; what comes of it, up to the ACK, joins."""
    with traces.span("change") as span:
        return span.traceparent


async def serve(context: process.Context[IngestorSettings]) -> None:
    """Follow the cluster until told to stop."""
    settings = context.settings
    context.ready("cluster", ready=False, why="starting")
    source = await KubernetesSource.connect(settings.kubeconfig)
    logs = JetStreamLogs.from_settings(settings, name=INGESTOR)
    context.count_foreign(logs.foreign)
    try:
        streams = settings.streams
        claim = Lease(
            await logs.open(streams.leases),
            subject=streams.lease_subject(f"ingestor-{settings.cluster}"),
            instance=context.instance,
            ttl=settings.lease_ttl,
        )
        commits, keyframes = await logs.open(streams.snapshots), await logs.open(streams.keyframes)

        async def compiled() -> Compiled:
            return await newest_version(commits, keyframes, streams)

        await logs.ensure(streams.pins)
        carried = pins_of(logs, streams, settings.cluster)
        ingestor = Ingestor(source, await logs.open(streams.events), settings, claim, compiled, carried=carried)
        writer = ingestor.writer
        ingestor.observe = await report(
            context, logs, source, writer.book, leads=lambda: claim.held, newest=lambda: writer.newest
        )
        _instruments(context, ingestor)
        lease_report.report(context, claim, leads="meshlog_ingestor_leads")
        context.spawn(claim.run(), "lease")
        context.spawn(ingestor.writer.run(), "writer")
        context.spawn(ingestor.issuer.run(), "token issuer")
        for name, runner in ingestor.runners.items():
            context.spawn(runner.run(), f"reflector {name}")
        pulse = Pulse(source.answers)
        context.spawn(pulse.run(), "pulse")
        context.spawn(_watch_readiness(context, ingestor, pulse), "readiness")
        await context.stopping.wait()
        await claim.release()
    finally:
        await context.cancel_parts()
        await logs.close()
        await source.close()


async def _watch_readiness(context: process.Context[IngestorSettings], ingestor: Ingestor, pulse: Pulse) -> None:
    """Say whether the log is what the cluster is: at once when that comes true, soon when it ceases to be."""
    progress = ingestor.writer.progress
    while True:
        progress.clear()
        pulse.changed.clear()
        why = pulse.trouble or ingestor.unready()
        context.ready("cluster", ready=not why, why=why)
        try:
            async with asyncio.timeout(_LOOK):
                await (progress if why else pulse.changed).wait()
        except TimeoutError:
            continue


def _instruments(context: process.Context[IngestorSettings], ingestor: Ingestor) -> None:
    metrics, writer, runners = context.metrics, ingestor.writer, ingestor.runners
    metrics.gauge(
        "meshlog_ingestor_facts",
        "What became of the facts that the cluster told, since the start",
        lambda: {
            (("outcome", name),): float(getattr(writer.counts, name))
            for name in ("received", "written", "unchanged", "older", "spared", "withheld")
        },
    )
    metrics.gauge(
        "meshlog_ingestor_appends",
        "Batches, refusals and epochs since the start",
        lambda: {
            (("outcome", name),): float(getattr(writer.counts, name))
            for name in ("batches", "refused", "abandoned", "epochs", "doubts", "sets", "sets_incomplete")
        },
    )
    metrics.gauge(
        "meshlog_ingestor_log_full",
        "1 while the log takes no more, because a stream or the servers' storage is full: changes wait.",
        lambda: float(writer.full),
    )
    metrics.gauge(
        "meshlog_ingestor_reflector",
        "Lists, watches and failures by kind since the start",
        lambda: {
            (("kind", kind), ("what", name)): float(getattr(runner.reflector.counts, name))
            for kind, runner in runners.items()
            for name in ("lists", "watches", "failures", "gone", "skipped")
        },
    )
    metrics.gauge(
        "meshlog_ingestor_needs_newer_build",
        "1 while the log holds an event of a newer build, and this process writes nothing.",
        lambda: float(bool(writer.newer)),
    )
    metrics.gauge(
        "meshlog_ingestor_unreadable",
        "Objects that could not be read, by kind, since the start",
        lambda: {(("kind", kind),): float(runner.unreadable) for kind, runner in runners.items()},
    )
    metrics.gauge(
        "meshlog_ingestor_withheld",
        "Living objects by kind of which the log has only the closed form: too large, or unreadable",
        lambda: {(("kind", kind),): float(count) for kind, count in writer.book.withheld().items()},
    )
    metrics.gauge(
        "meshlog_ingestor_objects",
        "Living objects in the log by kind",
        lambda: {(("kind", kind),): float(count) for kind, count in writer.book.counts().items()},
    )


def main(argv: Sequence[str]) -> int:
    """Run the ingestor to its end; the exit code."""
    return process.main("ingestor", IngestorSettings, serve, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
