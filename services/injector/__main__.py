"""`meshlog run injector`: settings, wiring, readiness."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from services.injector.http.server import HttpServer
from services.injector.http.tls_context import ServerContext
from services.injector.http.webhook import Webhook
from services.injector.log.namespace_follower import NamespaceFollower
from services.injector.settings import InjectorSettings
from shared.eventlog.protocol import Logs
from shared.identity.spiffe import SpiffeId
from shared.names import INJECTOR
from shared.policy.budgets import budgets_of
from shared.service import process
from shared.streams.jetstream import JetStreamLogs
from shared.svid import BundleFollower, CertificateRequester, ServingCertificate

_log = logging.getLogger(__package__)


async def serve(context: process.Context[InjectorSettings]) -> None:
    """Answer reviews until told to stop."""
    logs = JetStreamLogs.from_settings(context.settings, name=INJECTOR)
    context.count_foreign(logs.foreign)
    try:
        await _serve(context, logs)
    finally:
        await context.cancel_parts()
        await logs.close()


async def _serve(context: process.Context[InjectorSettings], logs: Logs) -> None:
    settings, streams = context.settings, context.settings.streams
    access = settings.access
    context.ready("log", ready=False, why="the log has not been read")
    context.ready("certificate", ready=False, why="there is no serving certificate yet")
    membership = NamespaceFollower(
        await logs.open(streams.events), streams=streams, cluster=settings.cluster, mesh_namespace=settings.namespace
    )
    context.spawn(membership.run(), "membership")
    tls = ServerContext(await _certificate(context, logs), settings.client_ca_file)
    webhook = Webhook(
        membership,
        settings.installation,
        patience=settings.patience,
        observe=_observed(context),
        budgets=budgets_of(settings.budgets),
    )
    refused = context.metrics.counter("meshlog_injector_refused_total", "Connections and requests refused, by reason")
    server = HttpServer(
        webhook.handlers,
        context=tls.current,
        limits=settings.limits,
        access=access,
        refused=lambda word: refused.add(reason=word),
    )
    context.metrics.gauge("meshlog_injector_connections", "Open connections", lambda: server.connections)
    context.metrics.gauge(
        "meshlog_injector_waiting",
        "Reviews that wait for their turn",
        lambda: {(("kind", kind),): count for kind, count in webhook.waiting.items()},
    )
    await membership.caught_up.wait()
    context.ready("log", ready=True)
    await tls.prepare()
    context.spawn(tls.run(), "CAs of clients")
    port = await server.start(settings.webhook_host, settings.webhook_port)
    context.ready("certificate", ready=True)
    _log.info("answering reviews", extra={"port": port})
    try:
        await context.stopping.wait()
    finally:
        await server.stop()
        webhook.close()


def _observed(context: process.Context[InjectorSettings]) -> Callable[[str, float], None]:
    answered = context.metrics.counter("meshlog_injector_reviews_total", "Reviews answered, by outcome")
    durations = context.metrics.histogram("meshlog_injector_review_seconds", "Time to answer a review")

    def observe(outcome: str, seconds: float) -> None:
        answered.add(outcome=outcome)
        durations.record(seconds)

    return observe


async def _certificate(context: process.Context[InjectorSettings], logs: Logs) -> ServingCertificate:
    settings, streams = context.settings, context.settings.streams
    certs = await logs.open(streams.certs)
    bundle = BundleFollower(certs, streams=streams, trust_domain=settings.trust_domain)
    requester = CertificateRequester(
        csrs=await logs.open(streams.csrs),
        certs=certs,
        streams=streams,
        instance=context.instance,
        cluster=settings.cluster,
        bundles=bundle,
    )
    identity = SpiffeId(trust_domain=settings.trust_domain, namespace=settings.namespace, service_account=INJECTOR)
    certificate = ServingCertificate(requester, token_path=Path(settings.token_file), spiffe_id=identity)
    context.spawn(bundle.run(), "trust bundle")
    context.spawn(requester.run(), "certificate requester")
    context.spawn(certificate.run(), "serving certificate")
    return certificate


def main(argv: Sequence[str]) -> int:
    """Run the injector to its end; the exit code."""
    return process.main("injector", InjectorSettings, serve, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
