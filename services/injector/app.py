"""Composition of the injector: builds its components, starts their tasks, and serves reviews when they are ready."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from services.injector.core.configuration import installation
from services.injector.http.client_access import client_access
from services.injector.http.limits import http_limits
from services.injector.http.server import HttpServer
from services.injector.http.tls_context import ServerContext
from services.injector.http.webhook import Webhook
from services.injector.log.namespace_follower import NamespaceFollower
from services.injector.settings import InjectorSettings
from shared.eventlog.protocol import EventLog, Logs
from shared.identity.bundle import BundleFollower
from shared.identity.serving_certificate import ServingCertificate
from shared.identity.spiffe import SpiffeId
from shared.identity.svid_requester import CertificateRequester
from shared.names import INJECTOR
from shared.policy.budgets import budgets_of
from shared.service.process import Context
from shared.streams.jetstream import JetStreamLogs

_log = logging.getLogger(__name__)


class App:
    """One replica of the injector."""

    def __init__(self, context: Context[InjectorSettings]) -> None:
        """Raises `BadInputError` for settings that contradict each other."""
        settings = context.settings
        self._context = context
        self._settings = settings
        self._limits = http_limits(settings)
        self._access = client_access(settings)
        api_host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
        self._installation = installation(settings, ipv6=":" in api_host)

    async def run(self, logs: Logs) -> None:
        """Answer reviews until the process is stopped. Raises `EventLogError`, or `BadInputError` for a bad address."""
        context, settings = self._context, self._settings
        context.ready("log", ready=False, why="the log has not been read")
        context.ready("certificate", ready=False, why="there is no serving certificate yet")
        namespaces = self._follow_namespaces(await logs.open(settings.streams.events))
        certificate = self._request_certificate(
            await logs.open(settings.streams.certs), await logs.open(settings.streams.csrs)
        )
        tls = ServerContext(certificate, settings.client_ca_file)
        webhook = self._new_webhook(namespaces)
        server = self._new_server(webhook, tls)
        await namespaces.caught_up.wait()
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

    def _follow_namespaces(self, events: EventLog) -> NamespaceFollower:
        settings = self._settings
        namespaces = NamespaceFollower(
            events, streams=settings.streams, cluster=settings.cluster, mesh_namespace=settings.namespace
        )
        self._context.spawn(namespaces.run(), "membership")
        return namespaces

    def _request_certificate(self, certs: EventLog, csrs: EventLog) -> ServingCertificate:
        """Start the tasks that obtain the serving certificate and renew it."""
        context, settings, streams = self._context, self._settings, self._settings.streams
        bundle = BundleFollower(certs, streams=streams, trust_domain=settings.trust_domain)
        requester = CertificateRequester(
            csrs=csrs,
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

    def _new_webhook(self, namespaces: NamespaceFollower) -> Webhook:
        metrics, settings = self._context.metrics, self._settings
        answered = metrics.counter("meshlog_injector_reviews_total", "Reviews answered, by outcome")
        durations = metrics.histogram("meshlog_injector_review_seconds", "Time to answer a review")

        def observe(outcome: str, seconds: float) -> None:
            answered.add(outcome=outcome)
            durations.record(seconds)

        webhook = Webhook(
            namespaces,
            self._installation,
            patience=settings.patience,
            observe=observe,
            budgets=budgets_of(settings.budgets),
        )
        metrics.gauge(
            "meshlog_injector_waiting",
            "Reviews that wait for their turn",
            lambda: {(("kind", kind),): count for kind, count in webhook.waiting.items()},
        )
        return webhook

    def _new_server(self, webhook: Webhook, tls: ServerContext) -> HttpServer:
        metrics = self._context.metrics
        refused = metrics.counter("meshlog_injector_refused_total", "Connections and requests refused, by reason")
        server = HttpServer(
            webhook.handlers,
            context=tls.current,
            limits=self._limits,
            access=self._access,
            refused=lambda word: refused.add(reason=word),
        )
        metrics.gauge("meshlog_injector_connections", "Open connections", lambda: server.connections)
        return server


async def serve(context: Context[InjectorSettings]) -> None:
    """Answer reviews until the process is stopped. Raises `BadInputError` for settings that contradict each other."""
    logs = JetStreamLogs.from_settings(context.settings, name=INJECTOR)
    context.count_foreign(logs.foreign)
    try:
        await App(context).run(logs)
    finally:
        await context.cancel_parts()
        await logs.close()
