"""Composition of the CA: builds its components and lists the tasks that run them.

`serve` runs the composition in a process; tests run it on a log in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from services.ca.core.cluster_state import ClusterState
from services.ca.core.issuer import Issuer, SigningPolicy
from services.ca.core.kube_api import KubeApi
from services.ca.core.replay_guard import ReplayGuard
from services.ca.core.root_certificates import DEFAULT_ROOT, WantedRoot
from services.ca.core.rotation_monitor import RotationMonitor
from services.ca.core.rotation_plan import RotationPlan
from services.ca.health import Health
from services.ca.http.bundle_endpoint import BundleEndpoint
from services.ca.keys.authority import new_serial
from services.ca.keys.selection import key_store
from services.ca.kubernetes.bundle_distributor import WEBHOOK_KINDS, BundleDistributor
from services.ca.kubernetes.client import KubeClient
from services.ca.kubernetes.gateway_certificate import GatewayCertificate
from services.ca.kubernetes.root_status import RootStatusWriter
from services.ca.log.audit import AuditTrail
from services.ca.log.bundle_publisher import BundlePublisher
from services.ca.log.cluster_state_follower import cluster_state_view, wait_until
from services.ca.log.rotation_progress import FleetProgress
from services.ca.log.signing_queue import SigningQueue
from services.ca.log.write_probe import WriteProbe
from services.ca.providers.base import find_provider
from services.ca.providers.root_registry import OpenStore, RootRegistry
from services.ca.rotation_controller import RotationController
from services.ca.settings import CaSettings
from shared.errors import BadInputError
from shared.eventlog.protocol import EventLog, Logs
from shared.eventlog.view import LogView
from shared.identity.bundle import BundleFollower
from shared.identity.service_account_tokens import TokenVerifier
from shared.identity.token_sealing import Opener
from shared.records.certificate_records import SigningAnswer, TrustBundle
from shared.service.process import Context
from shared.service.watch_value import Latest
from shared.streams.jetstream import JetStreamLogs

REFRESH_SECONDS = 60.0
"""Seconds between two rounds of the providers' maintenance."""

Part = tuple[str, Coroutine[Any, Any, None]]
"""Name and work of one task."""
Ready = Callable[[str, bool, str], None]
"""Sets a condition of readiness: its name, whether it holds, and why not."""


def default_root(settings: CaSettings) -> WantedRoot:
    """Return the root that is used if there is no MeshRootCertificate."""
    return WantedRoot(
        name=DEFAULT_ROOT,
        role="active",
        trust_domain=settings.trust_domain,
        provider=settings.provider,
        settings={},
        created="",
    )


class _LogComponents(msgspec.Struct, frozen=True):
    """The streams, and the components that only read or write them."""

    certs: EventLog
    csrs: EventLog
    events: EventLog
    status: EventLog
    view: LogView
    publisher: BundlePublisher
    write_probe: WriteProbe
    audit: AuditTrail


class App:
    """One replica of the CA."""

    def __init__(
        self,
        settings: CaSettings,
        *,
        store: OpenStore,
        kube: KubeApi | None = None,
        clock: Callable[[], float] = time.time,
        answered: Callable[[SigningAnswer], None] = lambda _: None,
    ) -> None:
        """`store` returns the key store of a root. Without `kube` the bundle is published in the log only.

        `answered` is called with each answer, for metrics.
        """
        self._settings = settings
        self._streams = settings.streams
        self._opener = Opener(())
        self._kube = kube
        self._clock = clock
        self._answered = answered
        self.verifier = TokenVerifier(clock=clock)
        self.state = ClusterState(
            self.verifier,
            cluster=settings.cluster,
            mesh_name=settings.mesh_name,
            mesh_namespace=settings.namespace,
        )
        self.roots = RootRegistry(
            default=default_root(settings),
            store=store,
            opener=self._opener,
            kube=kube,
            namespace=settings.namespace,
            clock=clock,
        )
        self.bundle: Latest[TrustBundle] = Latest()
        self.write_probe: WriteProbe | None = None
        """`None` until `parts` has opened the log."""
        self._rotation = RotationMonitor(clock=clock)
        self._distributor = self._new_distributor()
        self._statuses = self._new_statuses()
        self.health = Health(
            bundle=self.bundle,
            roots=self.roots,
            rotation=self._rotation,
            distributor=self._distributor,
            unwritable=lambda: self.write_probe is not None and bool(self.write_probe.trouble),
            mesh_name=settings.mesh_name,
        )

    async def parts(self, logs: Logs, ready: Ready = lambda _name, _ready, _why: None) -> list[Part]:
        """Open the streams. Returns the tasks to run side by side until the CA stops. Raises `EventLogError`."""
        ready("facts", False, "the events are not read yet")
        ready("bundle", False, "the trust bundle is not published yet")
        log = await self._open(logs, ready)
        bundles = BundleFollower(log.certs, streams=self._streams, trust_domain=self._settings.trust_domain)
        return [
            ("facts", log.view.run()),
            ("rotation", self._new_rotation(log).run()),
            ("bundles", bundles.run()),
            ("bundles-learnt", log.publisher.adopt(bundles)),
            ("audit", log.audit.run()),
            ("writes", log.write_probe.run()),
            ("refresh", self._refresh()),
            ("signing", self._sign(log, ready)),
            *self._kubernetes_parts(log),
            *self._http_parts(),
        ]

    async def _open(self, logs: Logs, ready: Ready) -> _LogComponents:
        settings, streams = self._settings, self._streams
        certs, csrs = await logs.open(streams.certs), await logs.open(streams.csrs)
        events, status = await logs.open(streams.events), await logs.open(streams.status)
        probe = self.write_probe = WriteProbe(certs, streams=streams, ready=ready)
        return _LogComponents(
            certs=certs,
            csrs=csrs,
            events=events,
            status=status,
            view=cluster_state_view(events, self.state, streams=streams),
            publisher=BundlePublisher(
                certs,
                streams=streams,
                trust_domain=settings.trust_domain,
                published=self.bundle,
                clock=self._clock,
            ),
            write_probe=probe,
            audit=AuditTrail(certs, streams=streams, failed=probe.failed),
        )

    async def _sign(self, log: _LogComponents, ready: Ready) -> None:
        """Answer signing requests, once the state of the cluster and the trust bundle are there."""
        await log.view.caught_up.wait()
        ready("facts", True, "")
        await self.bundle.wait()
        ready("bundle", True, "")
        queue = SigningQueue(
            csrs=log.csrs,
            certs=log.certs,
            streams=self._streams,
            issuer=self._new_issuer(log),
            bundle=self.bundle,
            answered=self._answered,
            failed=log.write_probe.failed,
        )
        await queue.run()

    def _new_issuer(self, log: _LogComponents) -> Issuer:
        settings = self._settings
        return Issuer(
            signer=self.roots.signer,
            opener=self._opener,
            verifier=self.verifier,
            state=self.state,
            guard=ReplayGuard(),
            policy=SigningPolicy(
                mesh_namespace=settings.namespace,
                lifetime=settings.lifetime,
                serving_accounts=settings.serving_accounts,
                service_domain=settings.service_domain,
            ),
            clock=self._clock,
            serials=new_serial,
            settle=partial(wait_until, log.view),
            refused=log.audit.note,
        )

    def _new_rotation(self, log: _LogComponents) -> RotationController:
        settings, streams = self._settings, self._streams
        progress = FleetProgress(
            status=log.status,
            certs=log.certs,
            events=log.events,
            streams=streams,
            state=self.state,
            cluster=settings.cluster,
            namespace=settings.namespace,
            serving_accounts=settings.serving_accounts,
            bundle_subject=log.publisher.subject,
            clock=self._clock,
            skew=settings.clock_skew,
            lifetime=settings.lifetime,
        )
        return RotationController(
            roots=self.roots,
            state=self.state,
            view=log.view,
            publisher=log.publisher,
            progress=progress,
            undistributed=self._distributor.undistributed if self._distributor is not None else lambda _: [],
            certs=log.certs,
            streams=streams,
            trust_domain=settings.trust_domain,
            planned=self._planned,
            failed=log.write_probe.failed,
        )

    def _planned(self, plan: RotationPlan) -> None:
        self._rotation.record(plan)
        if self._statuses is not None:
            self._statuses.record(plan)

    def _kubernetes_parts(self, log: _LogComponents) -> list[Part]:
        distributor, statuses, kube = self._distributor, self._statuses, self._kube
        if distributor is None or statuses is None or kube is None:
            return []
        gateway = GatewayCertificate(
            kube,
            state=self.state,
            roots=self.roots,
            bundle=self.bundle,
            certs=log.certs,
            streams=self._streams,
            clock=self._clock,
        )
        return [
            ("config-maps", distributor.run_config_maps()),
            ("config-maps-facts", distributor.wake_by(log.view.changes())),
            ("config-maps-bundle", distributor.wake_by(self.bundle.changes())),
            *((kind, distributor.run_webhooks(kind)) for kind in WEBHOOK_KINDS),
            ("root-statuses", statuses.run()),
            ("ingress-gateway", gateway.run(log.view)),
        ]

    def _http_parts(self) -> list[Part]:
        settings = self._settings
        if not settings.bundle_port:
            return []
        endpoint = BundleEndpoint(
            roots=self.roots,
            bundle=self.bundle,
            namespace=settings.namespace,
            service_domain=settings.service_domain,
            clock=self._clock,
        )
        return [("bundle-endpoint", endpoint.run(settings.bundle_host, settings.bundle_port))]

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await self.roots.refresh()

    def _new_distributor(self) -> BundleDistributor | None:
        if self._kube is None:
            return None
        return BundleDistributor(
            self._kube,
            bundle=self.bundle,
            members=self.state.members,
            clock=self._clock,
            settle=self._settings.distribution_settle,
            cluster_bundle=self._settings.cluster_trust_bundle,
        )

    def _new_statuses(self) -> RootStatusWriter | None:
        if self._kube is None:
            return None
        return RootStatusWriter(self._kube, namespace=self._settings.namespace, state=self.state, roots=self.roots)


async def serve(context: Context[CaSettings]) -> None:
    """Run the CA until the process is stopped. Raises `BadInputError` for settings that contradict each other."""
    settings = context.settings
    find_provider(settings.provider)
    answers = context.metrics.counter(
        "meshlog_ca_answers_total", "Signing requests answered, by the code of a refusal."
    )
    kubeconfig = Path(settings.kubeconfig) if settings.kubeconfig else None
    kube = await KubeClient.connect(kubeconfig) if _uses_kubernetes(settings) else None
    logs = JetStreamLogs.from_settings(settings, name=f"ca {context.instance}")
    context.count_foreign(logs.foreign)
    try:
        app = App(
            settings,
            store=partial(key_store, settings, kube),
            kube=kube if settings.kubernetes else None,
            answered=lambda answer: answers.add(refused=answer.refused),
        )
        app.health.expose(context.metrics)
        for name, part in await app.parts(logs, context.ready):
            context.spawn(part, name)
        context.spawn(app.health.report(context.remark), "remarks")
        await context.stopping.wait()
    finally:
        await context.cancel_parts()
        await logs.close()
        if kube is not None:
            await kube.close()


def _uses_kubernetes(settings: CaSettings) -> bool:
    """Return whether the settings need the Kubernetes API. Raises `BadInputError` for a key file without a path."""
    if settings.key_store == "file" and not settings.key_file:
        raise BadInputError("settings/missing", "needs --key-file, because --key-store is file", about="meshlog run ca")
    return settings.kubernetes or settings.key_store == "secret"
