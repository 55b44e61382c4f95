"""The CA put together from its parts; `__main__` runs it in a process, tests run it on a log in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from services.ca.authority import Authority, new_serial
from services.ca.distribution import WEBHOOK_KINDS, BundleDistributor
from services.ca.facts import Facts, FactsFollower
from services.ca.issuer import Issuer, SigningPolicy
from services.ca.kube import KubeApi
from services.ca.provider import Provider
from services.ca.publication import BundlePublisher
from services.ca.replay import ReplayGuard
from services.ca.settings import CaSettings
from services.ca.signing_queue import SigningQueue
from shared.certificates import SigningAnswer
from shared.eventlog.protocol import Logs
from shared.sealing import Opener
from shared.tokens import TokenVerifier

SETTLE_SECONDS = 1.5
"""How long a request may wait for the log to catch up with its token; then its requester is told to come again."""

Part = tuple[str, Coroutine[Any, Any, None]]


class CertificateAuthority:
    """One replica of the CA."""

    def __init__(
        self,
        settings: CaSettings,
        *,
        authority: Authority,
        provider: Provider,
        kube: KubeApi | None = None,
        clock: Callable[[], float] = time.time,
        answered: Callable[[SigningAnswer], None] = lambda _: None,
    ) -> None:
        """Without `kube` the bundle stands in the log alone."""
        self._settings = settings
        self._provider = provider
        self._opener = Opener(authority.sealing_keys)
        self._kube = kube
        self._clock = clock
        self._answered = answered
        self.verifier = TokenVerifier(clock=clock)
        self.facts = Facts(
            self.verifier,
            cluster=settings.cluster,
            mesh_name=settings.mesh_name,
            mesh_namespace=settings.namespace,
        )

    async def parts(
        self, logs: Logs, ready: Callable[[str, bool, str], None] = lambda _name, _ready, _why: None
    ) -> list[Part]:
        """Open the streams; what must run beside each other from now on, by name."""
        ready("facts", False, "the events are not read yet")
        ready("bundle", False, "the trust bundle is not published yet")
        streams = self._settings.streams
        certs = await logs.open(streams.certs)
        csrs = await logs.open(streams.csrs)
        follower = FactsFollower(await logs.open(streams.events), self.facts, streams=streams)
        publisher = BundlePublisher(certs, streams=streams, trust_domain=self._settings.trust_domain, clock=self._clock)
        issuer = Issuer(
            provider=self._provider,
            opener=self._opener,
            verifier=self.verifier,
            facts=self.facts,
            guard=ReplayGuard(),
            policy=SigningPolicy(
                trust_domain=self._settings.trust_domain,
                mesh_namespace=self._settings.namespace,
                lifetime=self._settings.lifetime,
                serving_accounts=self._settings.serving_accounts,
                service_domain=self._settings.service_domain,
            ),
            clock=self._clock,
            serials=new_serial,
            settle=lambda condition: _settle(follower, condition),
        )
        queue = SigningQueue(
            csrs=csrs, certs=certs, streams=streams, issuer=issuer, bundle=publisher.published, answered=self._answered
        )

        async def sign() -> None:
            # Before the facts are there every request would be refused; before the bundle is, no request can come.
            await follower.caught_up.wait()
            ready("facts", True, "")
            await publisher.published.wait()
            ready("bundle", True, "")
            await queue.run()

        roots = [root.public_bytes(Encoding.PEM).decode() for root in self._provider.roots]
        parts: list[Part] = [
            ("facts", follower.run()),
            ("publication", publisher.run(roots, self._opener.public_keys)),
            ("signing", sign()),
        ]
        if self._kube is not None:
            parts += self._distribution(self._kube, follower, publisher)
        return parts

    def _distribution(self, kube: KubeApi, follower: FactsFollower, publisher: BundlePublisher) -> list[Part]:
        distributor = BundleDistributor(kube, bundle=publisher.published, members=self.facts.members)

        async def wake_by_facts() -> None:
            async for _ in follower.changes():
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


async def _settle(follower: FactsFollower, condition: Callable[[], bool]) -> None:
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while not condition():
                await follower.changed()
    except TimeoutError:
        return
