"""Applies the requests of one proxy: subscriptions, ACKs and NACKs, the certificate that it holds or needs.

It sends nothing: it changes the stream's `AdsSession`, and wakes the stream's writer if a response may be due.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from services.xds_edge.grpc.stream_services import StreamServices
from services.xds_edge.proxy_status.report_schedule import ReportSchedule
from services.xds_edge.sds.workload_secrets import ProxySecrets
from services.xds_edge.xds.ads import AdsSession
from services.xds_edge.xds.name_budget import StreamNames
from services.xds_edge.xds.subscription import AckResult, Offer, XdsRequest
from shared.identity.service_account_tokens import WorkloadToken
from shared.identity.spiffe import SpiffeId
from shared.records.snapshot import SDS, SECRET_WORKLOAD

_log = logging.getLogger(__name__)


class RequestHandler:
    """The requests of one stream."""

    __slots__ = (
        "_claims",
        "_key",
        "_names",
        "_report",
        "_secrets",
        "_services",
        "_session",
        "_started",
        "_wake",
        "held_at_start",
    )

    def __init__(
        self,
        services: StreamServices,
        claims: WorkloadToken,
        session: AdsSession,
        *,
        key: str,
        secrets: ProxySecrets,
        names: StreamNames,
        report: ReportSchedule,
        wake: Callable[[], None],
    ) -> None:
        """`key`: `Proxy.key` of the proxy; `wake` the writer of the stream."""
        self._services = services
        self._claims = claims
        self._session = session
        self._key = key
        self._secrets = secrets
        self._names = names
        self._report = report
        self._wake = wake
        self._started = False
        self.held_at_start = False
        """Whether the first request named resources or a version that the proxy holds."""

    def handle(self, request: XdsRequest, node: str) -> None:
        """Apply one request; `node` is the node id in it. Raises `UnknownTypeError` and `TooManyNamesError`."""
        session, type_url = self._session, request.type_url
        if not self._started:
            self._started = True
            self.held_at_start = bool(request.initial_versions or request.version)
            self._check_node(node)
        if type_url == SDS:
            self._prepare_secrets(request)
        subscription = session.subscriptions.get(type_url)
        if subscription is None:
            self._report.doubt()
        offer = subscription.in_flight if subscription is not None else None
        named = subscription.names if subscription is not None else None
        result = session.request(request)
        self._account(request, named)
        if result is AckResult.ACK:
            self._services.counters.acks += 1
            if type_url == SDS and offer is not None:
                self._note_held(dict(offer.put))
            self._report.acked(type_url)
        elif result is AckResult.NACK and offer is not None:
            self._services.counters.nacks += 1
            self._note_refusal(offer, request.error or "")
        elif result is AckResult.STALE:
            self._services.counters.stale_answers += 1
        # A request that acknowledges nothing may move the watermark, even if the proxy holds all that it subscribes to.
        # So may the ACK of a response that denied a name, after which no response is due.
        if result is AckResult.NONE or not session.idle or session.complete < session.version:
            self._wake()

    def count_names(self, type_url: str) -> None:
        """Count the names that the stream keeps of a type."""
        session = self._session
        subscription = session.subscriptions[type_url]
        self._names.book(type_url, subscription.names, subscription.held, session.whole(type_url))

    def sync_secrets(self) -> None:
        """Have the session serve the secrets that there are now."""
        self._session.secrets, self._session.pending_secrets = self._secrets.selection, self._secrets.pending

    def _account(self, request: XdsRequest, before: frozenset[str] | None) -> None:
        """Charge the pod for the names in a request, and count those that the stream keeps."""
        subscription = self._session.subscriptions[request.type_url]
        changed = subscription.names is not before or bool(request.initial_versions)
        self._names.pay(request, len(subscription.names) if changed else 0)
        if changed:
            self.count_names(request.type_url)
            if request.type_url == SDS:
                # A rotation of the root waits only for proxies that subscribe to the bundle.
                self._report.note(urgent=False)

    def _check_node(self, node: str) -> None:
        """Count and log a node id that is not the pod's. The token alone decides, but operators should look."""
        claims = self._claims
        if node and node not in {f"{claims.namespace}/{claims.pod_name}", claims.pod_name, claims.pod_uid}:
            self._services.counters.node_mismatches += 1
            _log.warning("the proxy of %s calls itself %r", self._key, node[:200])

    def _prepare_secrets(self, request: XdsRequest) -> None:
        """Obtain a certificate if a request for secrets needs one; what the proxy holds decides that."""
        subscription = self._session.subscriptions.get(SDS)
        if subscription is None:
            self._report.record.held_at_start(request.initial_versions)
            self._want_certificate(request.initial_versions.get(SECRET_WORKLOAD, ""))
        elif subscription.asks_for(SECRET_WORKLOAD, request):
            self._secrets.resend()
        self.sync_secrets()

    def _want_certificate(self, holds: str) -> None:
        claims, trust_domain = self._claims, self._services.fleet.snapshot.trust_domain
        identity = SpiffeId(trust_domain, claims.namespace, claims.service_account)
        self._secrets.want(self._services.secrets.in_force(identity), holds)

    def _note_held(self, secrets: dict[str, str]) -> None:
        """Report that the proxy holds these secrets: a rotation of the root waits for it."""
        if self._report.record.holds(secrets):
            self._report.note(urgent=False)

    def _note_refusal(self, offer: Offer, message: str) -> None:
        known = self._session.subscriptions[offer.type_url].refused
        named = dict(known) if known else dict(offer.put)
        self._report.refused(offer, named, message)
        _log.warning(
            "the proxy %s refuses %s of version %d: %s",
            self._key,
            ", ".join(sorted(named)[:10]),
            offer.version,
            message,
            extra={"objects": self._causes(offer.type_url, named)},
        )

    def _causes(self, type_url: str, named: dict[str, str]) -> list[str]:
        """The objects from which refused resources were computed, at most 20."""
        resources = self._services.fleet.snapshot.resources
        found = {
            f"{cause.key}@{cause.sequence}"
            for name, digest in named.items()
            if (resource := resources.get((type_url, name, digest))) is not None
            for cause in resource.causes
        }
        return sorted(found)[:20]
