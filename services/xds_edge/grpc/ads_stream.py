"""One stream of one proxy: what arrives is folded into its session, what is due is written, by one writer.

The transport is a `Channel`, so that a stream can be tried without a network. The coroutine that serves the call is
the writer; a task beside it reads. A reader that must say something wakes the writer, and so does everybody else; the
newest state is what gets written, however many woke it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from services.xds_edge.admission.token_origin import TokenOrigin
from services.xds_edge.counters import EdgeCounters
from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.grpc.csds import HeldConfig, HeldType
from services.xds_edge.http2.channel import Channel
from services.xds_edge.http2.write_timeout import WriteTimeout
from services.xds_edge.limits.pod_usage import PodLimits, PodUsage
from services.xds_edge.proxy_status.proxy_record import ProxyRecord
from services.xds_edge.proxy_status.report_schedule import ReportSchedule
from services.xds_edge.proxy_status.reporter import StatusReporter
from services.xds_edge.sds.workload_secrets import WorkloadSecrets
from services.xds_edge.snapshot.fleet import Fleet
from services.xds_edge.xds.ads import AdsSession, UnknownTypeError
from services.xds_edge.xds.delta import AckResult, Offer, TooManyNamesError, XdsRequest
from services.xds_edge.xds.name_budget import NameLedgers, StreamNames
from services.xds_edge.xds.request_decode import BadRequestError
from services.xds_edge.xds.response_cache import ResponseCache
from services.xds_edge.xds.variants import DeltaVariant, Variant
from shared.identity.service_account_tokens import WorkloadToken
from shared.identity.spiffe import SpiffeId
from shared.records.snapshot import SDS, SECRET_WORKLOAD, Proxy, proxy_key

_log = logging.getLogger(__name__)


class StreamLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream may take."""

    write_timeout: float = 20.0
    """Seconds that a proxy may leave a response unread."""
    patience: float = 60.0
    """Seconds that a stream waits for its pod to be compiled."""


class StreamServices(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What all streams of an edge share."""

    fleet: Fleet
    responses: ResponseCache
    secrets: WorkloadSecrets
    reporter: StatusReporter
    counters: EdgeCounters
    origin: TokenOrigin
    edge: str
    names: NameLedgers = msgspec.field(default_factory=NameLedgers)
    limits: StreamLimits = StreamLimits()
    clock: Callable[[], int] = time.time_ns
    """Nanoseconds since 1970."""
    steady: Callable[[], float] = time.monotonic


class ProxyStream:
    """One stream."""

    def __init__(
        self,
        services: StreamServices,
        channel: Channel,
        claims: WorkloadToken,
        token: str,
        variant: Variant | None = None,
        *,
        account: PodUsage | None = None,
        address: str = "",
    ) -> None:
        """`variant`: the protocol that the client speaks; incremental unless told otherwise. `account`: the pod's.

        `address`: where the client is.
        """
        self._services = services
        self._channel = channel
        self._claims = claims
        self._key = proxy_key(claims.cluster, claims.namespace, claims.pod_name)
        self._variant = variant or DeltaVariant(services.responses)
        self._session = AdsSession(self._variant.follow)
        account = account or PodUsage(PodLimits(), services.steady())
        self._names = StreamNames(services.names, account, self._name_too_much)
        self._secrets = services.secrets.open(
            self._key, token, claims, changed=self._secrets_changed, stale=self._token_stale
        )
        self._address = address
        self._located: tuple[str, ...] | None = None
        """Addresses of the pod that the client's was compared with."""
        self._wake = asyncio.Event()
        self._ended: StreamRefusedError | None = None
        self._client_done = False
        self._proxy: Proxy | None = None
        self._progress = ReportSchedule(
            self,
            self._session,
            ProxyRecord(claims, services.clock),
            fleet=services.fleet,
            secrets=services.secrets,
            reporter=services.reporter,
            edge=services.edge,
        )
        self._asked = False
        self._held_at_start = False
        """Whether its first request named what it holds."""
        self._may_go_on = False
        """Whether what we have was ever confirmed while it was here."""
        self._patience = WriteTimeout(services.limits.write_timeout, services.counters, channel)

    @property
    def key(self) -> str:
        """`Proxy.key` of its proxy."""
        return self._key

    @property
    def synced(self) -> bool:
        """Whether its proxy holds all of the newest view of its class."""
        view = self._session.view
        return view is not None and self._session.complete >= view.version

    def held(self) -> HeldConfig:
        """What its proxy holds, secrets left out."""
        return HeldConfig(self._claims.namespace, self._claims.pod_name, self._held_types)

    def _held_types(self) -> tuple[HeldType, ...]:
        return tuple(
            HeldType(
                type_url,
                subscription.held.resources,
                subscription.refused,
                refusal.message if (refusal := self._progress.standing.refusals.get(type_url)) else "",
                subscription.in_flight is None,
            )
            for type_url, subscription in self._session.subscriptions.items()
            if type_url != SDS
        )

    def refresh(self) -> None:
        """The snapshot changed for this proxy, or the secrets for all."""
        fleet = self._services.fleet
        proxy = fleet.proxy(self._key)
        if proxy is None or proxy.uid != self._claims.pod_uid:
            if self._proxy is not None:
                self.end(StreamRefusedError(Code.PERMISSION_DENIED, "stream/pod-gone", "the pod is gone"))
            return
        view = fleet.view(proxy.workload_class)
        if view is None or not self._services.origin.settled(proxy.addresses):
            return
        if proxy.addresses != self._located and not self._locate(proxy):
            return
        if self._proxy is None or self._proxy.workload_class != proxy.workload_class:
            fleet.assign(self, proxy.workload_class)
        self._proxy = proxy
        self._progress.workload_class = proxy.workload_class
        self._secrets.refresh()
        session = self._session
        session.secrets, session.pending_secrets = self._secrets.selection, self._secrets.pending
        first = session.view is None
        session.show(view, fleet.version, fleet.snapshot.epoch)
        if first:
            # What it named before its pod was compiled was of no snapshot.
            for type_url in session.subscriptions:
                self._count_names(type_url)
        self._wake.set()

    def _locate(self, proxy: Proxy) -> bool:
        """Compare the client's address with its pod's; whether it may be served."""
        self._located = proxy.addresses
        try:
            self._services.origin.check(self._key, self._address, proxy.addresses)
        except StreamRefusedError as refusal:
            self.end(refusal)
            return False
        return True

    def end(self, why: StreamRefusedError) -> None:
        """End the stream with a status, once what is being written is written."""
        if self._ended is None:
            self._ended = why
            self._wake.set()

    def evict(self) -> None:
        """End: the pod has opened too many streams since."""
        self.end(StreamRefusedError(Code.RESOURCE_EXHAUSTED, "stream/too-many", "the pod has opened too many streams"))

    async def run(self) -> None:
        """Serve until the client leaves or the stream is ended; raises `StreamRefusedError` in the second case."""
        services = self._services
        services.fleet.join(self)
        services.counters.streams += 1
        services.counters.opened += 1
        reader = asyncio.get_running_loop().create_task(self._read(), name=f"reader of {self._key}")
        try:
            self.refresh()
            await self._wait_for_view()
            self._progress.note(urgent=False)
            await self._write()
        finally:
            reader.cancel()
            self._patience.close()
            self._secrets.close()
            self._names.close()
            services.fleet.leave(self)
            services.counters.streams -= 1
            self._progress.end()

    async def _wait_for_view(self) -> None:
        """Wait until the pod is compiled: a proxy is never told that it should hold nothing."""
        try:
            async with asyncio.timeout(self._services.limits.patience):
                while self._proxy is None and not self._client_done:
                    self._check_ended()
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            raise StreamRefusedError(
                Code.UNAVAILABLE, "stream/not-compiled", "the pod is in no snapshot yet; come back"
            ) from None

    async def _write(self) -> None:
        services, session, channel = self._services, self._session, self._channel
        counters = services.counters
        while not self._client_done:
            self._check_ended()
            self._wake.clear()
            offers = session.offers(services.steady()) if self._may_serve() else []
            # All bytes are made before the first write: a commit that comes in between may retire bodies.
            messages = [self._message(offer) for offer in offers]
            for offer, message in zip(offers, messages, strict=True):
                with self._patience:
                    await channel.write(*message)
                counters.pushes += 1
                counters.resources += len(offer.put)
                counters.removals += len(offer.removed)
                counters.pushed_bytes += sum(map(len, message))
            self._progress.moved()
            await self._woken(session.wake_at)
        self._check_ended()

    def _may_serve(self) -> bool:
        """Whether our snapshot may be served to this proxy.

        With the log away it may be older than what a proxy holds that was served by another edge: such a proxy is
        left alone until the log confirms what we have (P3, P6). One that we have served ourselves goes on, and one
        that holds nothing is better off with the last good snapshot than with none.
        """
        self._may_go_on = self._may_go_on or self._services.fleet.confirmed
        return self._may_go_on or not self._held_at_start

    async def _woken(self, at: float | None) -> None:
        if at is None:
            await self._wake.wait()
            return
        try:
            async with asyncio.timeout(max(0.0, at - self._services.steady())):
                await self._wake.wait()
        except TimeoutError:
            return

    def _message(self, offer: Offer) -> tuple[bytes, ...]:
        held = self._session.subscriptions[offer.type_url].held
        return self._variant.write(offer, held, self._secrets.body)

    def _check_ended(self) -> None:
        if self._ended is not None:
            raise self._ended

    async def _read(self) -> None:
        try:
            while (payload := await self._channel.read()) is not None:
                request, node = self._variant.decode(payload)
                self._take(request, node)
        except (BadRequestError, UnknownTypeError) as error:
            self.end(StreamRefusedError(Code.INVALID_ARGUMENT, error.code, error.sentence))
        except TooManyNamesError as error:
            self.end(StreamRefusedError(Code.RESOURCE_EXHAUSTED, error.code, error.sentence))
        except StreamRefusedError as refusal:
            self.end(refusal)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 (logged, and the stream ended)
            _log.exception("the stream of %s ends by a fault of ours", self._key)
            self.end(StreamRefusedError(Code.UNAVAILABLE, "stream/fault", type(error).__name__))
        finally:
            self._client_done = True
            self._wake.set()

    def _take(self, request: XdsRequest, node: str) -> None:
        session = self._session
        if not self._asked:
            self._asked = True
            self._held_at_start = bool(request.initial_versions or request.version)
            self._check_node(node)
        if request.type_url == SDS:
            self._take_secrets_request(request)
        subscription = session.subscriptions.get(request.type_url)
        if subscription is None:
            self._progress.doubt()
        offer = subscription.in_flight if subscription is not None else None
        named = subscription.names if subscription is not None else None
        verdict = session.request(request)
        self._book(request, named)
        if verdict is AckResult.ACK:
            self._services.counters.acks += 1
            if request.type_url == SDS and offer is not None:
                self._holds(dict(offer.put))
            self._progress.acked(request.type_url)
        elif verdict is AckResult.NACK and offer is not None:
            self._services.counters.nacks += 1
            self._refused(offer, request.error or "")
        elif verdict is AckResult.STALE:
            self._services.counters.stale_answers += 1
        # A request that answers nothing may move the watermark, also if all that it subscribes to is held; so may the
        # ACK of a response that denied a name, after which nothing is left to send.
        if verdict is AckResult.NONE or not session.idle or session.complete < session.version:
            self._wake.set()

    def _book(self, request: XdsRequest, before: frozenset[str] | None) -> None:
        """Have the pod pay for what a request names, and count what the stream keeps of it."""
        subscription = self._session.subscriptions[request.type_url]
        changed = subscription.names is not before or bool(request.initial_versions)
        self._names.pay(request, len(subscription.names) if changed else 0)
        if changed:
            self._count_names(request.type_url)
            if request.type_url == SDS:
                # A rotation of the root waits for no proxy that asks for no bundle.
                self._progress.note(urgent=False)

    def _count_names(self, type_url: str) -> None:
        subscription = self._session.subscriptions[type_url]
        self._names.book(type_url, subscription.names, subscription.held, self._session.whole(type_url))

    def _name_too_much(self) -> None:
        self.end(StreamRefusedError(Code.RESOURCE_EXHAUSTED, "stream/names", "the pod names more than it may"))

    def _check_node(self, node: str) -> None:
        """Count proxies that say they are another pod: the token alone decides, but somebody should look."""
        claims = self._claims
        if node and node not in {f"{claims.namespace}/{claims.pod_name}", claims.pod_name, claims.pod_uid}:
            self._services.counters.node_mismatches += 1
            _log.warning("the proxy of %s calls itself %r", self._key, node[:200])

    def _take_secrets_request(self, request: XdsRequest) -> None:
        """See to the certificate when it is asked for; what the proxy holds decides whether it needs one."""
        if SDS not in self._session.subscriptions:
            self._progress.standing.held_at_start(request.initial_versions)
            self._want_certificate(request.initial_versions.get(SECRET_WORKLOAD, ""))
        elif self._session.subscriptions[SDS].asks_for(SECRET_WORKLOAD, request):
            self._secrets.resend()
        self._session.secrets, self._session.pending_secrets = self._secrets.selection, self._secrets.pending

    def _want_certificate(self, holds: str) -> None:
        claims, trust_domain = self._claims, self._services.fleet.snapshot.trust_domain
        identity = SpiffeId(trust_domain, claims.namespace, claims.service_account)
        self._secrets.want(self._services.secrets.in_force(identity), holds)

    def _holds(self, secrets: dict[str, str]) -> None:
        """The proxy has these secrets: what a rotation of the root waits for."""
        if self._progress.standing.holds(secrets):
            self._progress.note(urgent=False)

    def _refused(self, offer: Offer, message: str) -> None:
        known = self._session.subscriptions[offer.type_url].refused
        named = dict(known) if known else dict(offer.put)
        self._progress.refused(offer, named, message)
        _log.warning(
            "the proxy %s refuses %s of version %d: %s",
            self._key,
            ", ".join(sorted(named)[:10]),
            offer.version,
            message,
            extra={"objects": self._causes(offer.type_url, named)},
        )

    def _causes(self, type_url: str, named: dict[str, str]) -> list[str]:
        """The objects that refused resources come from."""
        resources = self._services.fleet.snapshot.resources
        found = {
            f"{cause.key}@{cause.sequence}"
            for name, digest in named.items()
            if (resource := resources.get((type_url, name, digest))) is not None
            for cause in resource.causes
        }
        return sorted(found)[:20]

    def _secrets_changed(self) -> None:
        session = self._session
        session.secrets, session.pending_secrets = self._secrets.selection, self._secrets.pending
        self._wake.set()

    def _token_stale(self) -> None:
        self.end(
            StreamRefusedError(
                Code.UNAVAILABLE, "stream/token-expired", "the token expired; come back with a fresh one"
            )
        )
