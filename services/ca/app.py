"""The CA put together from its parts; `__main__` runs it in a process, tests run it on a log in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from services.ca.core.cluster_state import ClusterState
from services.ca.core.issuer import Issuer, SigningPolicy
from services.ca.core.replay_guard import ReplayGuard
from services.ca.core.root_certificates import WantedRoot
from services.ca.core.rotation_plan import RotationPlan
from services.ca.http.bundle_endpoint import BundleEndpoint
from services.ca.keys.authority import new_serial
from services.ca.kubernetes.bundle_distributor import WEBHOOK_KINDS, BundleDistributor
from services.ca.kubernetes.client import KubeApi
from services.ca.kubernetes.gateway_certificate import GatewayCertificate
from services.ca.kubernetes.root_status import RootStatusWriter
from services.ca.log.audit import AuditTrail
from services.ca.log.bundle_publisher import BundlePublisher
from services.ca.log.cluster_state_follower import cluster_state_view
from services.ca.log.rotation_progress import FleetProgress
from services.ca.log.signing_queue import SigningQueue
from services.ca.log.write_probe import WriteProbe
from services.ca.providers.root_registry import DEFAULT_ROOT, OpenStore, RootRegistry
from services.ca.rotation_controller import RotationController
from services.ca.settings import CaSettings
from shared.eventlog.protocol import Logs
from shared.eventlog.view import LogView
from shared.identity.service_account_tokens import TokenVerifier
from shared.identity.token_sealing import Opener
from shared.names import mutating_webhook
from shared.records.certificates import SigningAnswer, TrustBundle
from shared.service.watch_value import Latest
from shared.svid import BundleFollower

SETTLE_SECONDS = 1.5
"""How long a request may wait for the log to catch up with its token; then its requester is told to come again."""
REFRESH_SECONDS = 60.0

Part = tuple[str, Coroutine[Any, Any, None]]


def default_root(settings: CaSettings) -> WantedRoot:
    """The root where nobody made a MeshRootCertificate."""
    return WantedRoot(
        name=DEFAULT_ROOT,
        role="active",
        trust_domain=settings.trust_domain,
        provider=settings.provider,
        settings={},
        created="",
    )


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
        """`store` says where the keys of a root live; without `kube` the bundle stands in the log alone."""
        self._settings = settings
        self._opener = Opener(())
        self._kube = kube
        self._clock = clock
        self._answered = answered
        self.verifier = TokenVerifier(clock=clock)
        self.facts = ClusterState(
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
        self.plan: RotationPlan | None = None
        """What the state machine of the roots saw last."""
        self.distributor: BundleDistributor | None = None
        """Who writes the bundle into Kubernetes; none: nothing does."""
        self.writes: WriteProbe | None = None
        """Whether the log can be written; none before `parts`."""
        self._waits_since = 0.0

    async def parts(
        self, logs: Logs, ready: Callable[[str, bool, str], None] = lambda _name, _ready, _why: None
    ) -> list[Part]:
        """Open the streams; what must run beside each other from now on, by name."""
        ready("facts", False, "the events are not read yet")
        ready("bundle", False, "the trust bundle is not published yet")
        settings, streams = self._settings, self._settings.streams
        certs = await logs.open(streams.certs)
        csrs = await logs.open(streams.csrs)
        events = await logs.open(streams.events)
        view = cluster_state_view(events, self.facts, streams=streams)
        publisher = BundlePublisher(certs, streams=streams, trust_domain=settings.trust_domain, clock=self._clock)
        bundles = BundleFollower(certs, streams=streams, trust_domain=settings.trust_domain)
        self.bundle = publisher.published
        writes = self.writes = WriteProbe(certs, streams=streams, ready=ready)
        trail = AuditTrail(certs, streams=streams, failed=writes.failed)
        issuer = Issuer(
            signer=self.roots.signer,
            opener=self._opener,
            verifier=self.verifier,
            facts=self.facts,
            guard=ReplayGuard(),
            policy=SigningPolicy(
                mesh_namespace=settings.namespace,
                lifetime=settings.lifetime,
                serving_accounts=settings.serving_accounts,
                service_domain=settings.service_domain,
            ),
            clock=self._clock,
            serials=new_serial,
            settle=lambda condition: _settle(view, condition),
            refused=trail.note,
        )
        queue = SigningQueue(
            csrs=csrs,
            certs=certs,
            streams=streams,
            issuer=issuer,
            bundle=publisher.published,
            answered=self._answered,
            failed=writes.failed,
        )
        distributor = self.distributor = self._distributor(publisher)
        statuses = self._statuses()
        rotator = RotationController(
            roots=self.roots,
            facts=self.facts,
            view=view,
            publisher=publisher,
            progress=FleetProgress(
                status=await logs.open(streams.status),
                certs=certs,
                events=events,
                streams=streams,
                facts=self.facts,
                home=(settings.cluster, settings.namespace),
                bundle_subject=publisher.subject,
                serving=(settings.namespace, settings.serving_accounts),
                clock=self._clock,
                skew=settings.clock_skew,
                lifetime=settings.lifetime,
            ),
            undistributed=distributor.undistributed if distributor is not None else lambda _: [],
            certs=certs,
            streams=streams,
            trust_domain=settings.trust_domain,
            looked=partial(self._looked, statuses),
            failed=writes.failed,
        )

        async def sign() -> None:
            # Before the facts are there every request would be refused; before the bundle is, no request can come.
            await view.caught_up.wait()
            ready("facts", True, "")
            await publisher.published.wait()
            ready("bundle", True, "")
            await queue.run()

        async def learn_bundles() -> None:
            # Another replica may take the step; this one signs with the new root from then on.
            async for bundle in bundles.changes():
                known = publisher.published.value
                if known is None or bundle.serial > known.serial:
                    publisher.published.set(bundle)

        parts: list[Part] = [
            ("facts", view.run()),
            ("rotation", rotator.run()),
            ("bundles", bundles.run()),
            ("bundles-learnt", learn_bundles()),
            ("audit", trail.run()),
            ("writes", writes.run()),
            ("refresh", self._refresh()),
            ("signing", sign()),
        ]
        if distributor is not None:
            parts += _distribution(distributor, view, publisher)
        if self._kube is not None and statuses is not None:
            parts.append(("root-statuses", statuses.run()))
            gateway = GatewayCertificate(
                self._kube,
                facts=self.facts,
                roots=self.roots,
                bundle=publisher.published,
                certs=certs,
                streams=streams,
                clock=self._clock,
            )
            parts.append(("ingress-gateway", gateway.run(view)))
        if settings.bundle_port:
            endpoint = BundleEndpoint(
                roots=self.roots,
                bundle=publisher.published,
                namespace=settings.namespace,
                service_domain=settings.service_domain,
                clock=self._clock,
            )
            parts.append(("bundle-endpoint", endpoint.run(settings.bundle_host, settings.bundle_port)))
        return parts

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await self.roots.refresh()

    def waited(self) -> float:
        """Seconds for which a rotation has waited for the same; 0: it waits for nothing."""
        return max(0.0, self._clock() - self._waits_since) if self._waits_since else 0.0

    def webhook_missing(self) -> str:
        """That the injector's webhook is not there; empty: it is, or was not looked for yet."""
        seen = self.distributor.webhooks.get(WEBHOOK_KINDS[0]) if self.distributor is not None else None
        name = mutating_webhook(self._settings.mesh_name)
        return "" if seen is None or name in seen else f"{name} is not there: new pods get no sidecar"

    def _looked(self, statuses: RootStatusWriter | None, plan: RotationPlan) -> None:
        before, self.plan = self.plan, plan
        if not plan.waiting:
            self._waits_since = 0.0
        elif before is None or before.waiting != plan.waiting or not self._waits_since:
            self._waits_since = self._clock()
        if statuses is not None:
            statuses.look(plan)

    def _statuses(self) -> RootStatusWriter | None:
        if self._kube is None:
            return None
        return RootStatusWriter(self._kube, namespace=self._settings.namespace, facts=self.facts, roots=self.roots)

    def _distributor(self, publisher: BundlePublisher) -> BundleDistributor | None:
        if self._kube is None:
            return None
        return BundleDistributor(
            self._kube,
            bundle=publisher.published,
            members=self.facts.members,
            clock=self._clock,
            settle=self._settings.distribution_settle,
            cluster_bundle=self._settings.cluster_trust_bundle,
        )


def _distribution(distributor: BundleDistributor, view: LogView, publisher: BundlePublisher) -> list[Part]:
    async def wake_by_facts() -> None:
        async for _ in view.changes():
            distributor.wake()

    async def wake_by_bundle() -> None:
        async for _ in publisher.published.changes():
            distributor.wake()

    return [
        ("config-maps", distributor.run_config_maps()),
        ("config-maps-facts", wake_by_facts()),
        ("config-maps-bundle", wake_by_bundle()),
        *((kind, distributor.run_webhooks(kind)) for kind in WEBHOOK_KINDS),
    ]


async def _settle(view: LogView, condition: Callable[[], bool]) -> None:
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while not condition():
                await view.changed()
    except TimeoutError:
        return
