"""The record of one proxy in `MESH_STATUS`: what it holds and requests, what it refused, and since when.

It is separate from the stream because a part of it outlives subscriptions: the secrets that a proxy accepted stay its
own until it accepts others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from services.xds_edge.sds.workload_secrets import WorkloadSecrets
from services.xds_edge.xds.ads import AdsSession
from services.xds_edge.xds.subscription import Offer
from shared.identity.service_account_tokens import WorkloadToken
from shared.records.proxy_status import NackedResource, ProxyStatus, TypeStatus
from shared.records.snapshot import SDS, SECRET_TRUST_BUNDLE, SECRET_WORKLOAD, TYPE_URLS

_SECRETS = (SECRET_TRUST_BUNDLE, SECRET_WORKLOAD)


class ProxyRecord:
    """The state of one proxy, as its stream knows it."""

    __slots__ = ("_acked_at", "_claims", "_clock", "_connected", "_held", "_since", "refusals")

    def __init__(self, claims: WorkloadToken, clock: Callable[[], int]) -> None:
        """`clock`: nanoseconds since 1970."""
        self._claims = claims
        self._clock = clock
        self._since = clock()
        self._connected = True
        self._acked_at: dict[str, int] = {}
        self._held: dict[str, str] = {}
        """Secrets that the proxy is known to hold: name → version."""
        self.refusals: dict[str, NackedResource] = {}
        """By type."""

    def held_at_start(self, secrets: Mapping[str, str]) -> None:
        """Record the secrets that the proxy named as held in its first request."""
        self._held.update((name, version) for name, version in secrets.items() if name in _SECRETS)

    def holds(self, secrets: Mapping[str, str]) -> bool:
        """Record that the proxy accepted these secrets; returns whether that is a change."""
        before = dict(self._held)
        self._held.update(secrets)
        return before != self._held

    def acked(self, type_url: str) -> None:
        """Record that the proxy accepted a response."""
        self._acked_at[type_url] = self._clock()

    def refused(self, offer: Offer, named: dict[str, str], message: str) -> None:
        """Record that the proxy refused these resources of a response, with its message."""
        self.refusals[offer.type_url] = NackedResource(version=offer.version, resources=named, message=message)

    def end(self) -> None:
        """Record that the stream ended."""
        self._connected = False
        self._since = self._clock()

    def status(
        self, session: AdsSession, secrets: WorkloadSecrets, *, edge: str, workload_class: str, stuck: str
    ) -> ProxyStatus:
        """The record to write."""
        claims = self._claims
        types = {
            type_url: TypeStatus(
                sent=subscription.sent if (subscription := session.subscriptions.get(type_url)) else 0,
                acked=session.acked(type_url),
                acked_at=self._acked_at.get(type_url, 0),
                refusal=self.refusals.get(type_url),
            )
            for type_url in (*TYPE_URLS, SDS)
            if type_url != SDS or SDS in session.subscriptions
        }
        asked = session.subscriptions.get(SDS)
        certificate_bundle, certificate_until = secrets.certified(self._held.get(SECRET_WORKLOAD, ""))
        return ProxyStatus(
            cluster=claims.cluster,
            namespace=claims.namespace,
            pod=claims.pod_name,
            uid=claims.pod_uid,
            service_account=claims.service_account,
            edge=edge,
            connected=self._connected,
            since=self._since,
            workload_class=workload_class,
            types=types,
            bundle=secrets.serial_of(self._held.get(SECRET_TRUST_BUNDLE, "")),
            certificate_bundle=certificate_bundle,
            certificate_until=certificate_until,
            secrets=None if asked is None else tuple(name for name in _SECRETS if name in asked.names),
            stuck=stuck,
            epoch=session.epoch,
        )
