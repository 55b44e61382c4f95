"""One ADS stream of one proxy: a task reads requests, the coroutine that serves the call writes the responses.

The transport is a `Channel`, so that a stream can be tested without a network. Requests, commits and secrets change
the session and wake the writer. The writer sends the newest state, however many changes woke it.
"""

from __future__ import annotations

import asyncio
import logging

from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.grpc.csds import HeldConfig, HeldType
from services.xds_edge.grpc.request_handler import RequestHandler
from services.xds_edge.grpc.stream_pod import StreamPod
from services.xds_edge.grpc.stream_services import StreamServices
from services.xds_edge.http2.channel import Channel
from services.xds_edge.http2.write_timeout import WriteTimeout
from services.xds_edge.limits.pod_usage import PodLimits, PodUsage
from services.xds_edge.proxy_status.proxy_record import ProxyRecord
from services.xds_edge.proxy_status.report_schedule import ReportSchedule
from services.xds_edge.xds.ads import AdsSession, UnknownTypeError
from services.xds_edge.xds.name_budget import StreamNames
from services.xds_edge.xds.request_decode import BadRequestError
from services.xds_edge.xds.subscription import Offer, TooManyNamesError
from services.xds_edge.xds.variants import DeltaVariant, Variant
from shared.identity.service_account_tokens import WorkloadToken
from shared.records.snapshot import SDS

_log = logging.getLogger(__name__)


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
        usage: PodUsage | None = None,
        address: str = "",
    ) -> None:
        """`variant`: the xDS variant of the client, incremental by default; `usage`: of the pod, over all its streams.

        `address`: IP address of the client; empty if it is not known.
        """
        self._services = services
        self._channel = channel
        self._claims = claims
        self._variant = variant or DeltaVariant(services.responses)
        self._session = AdsSession(self._variant.follow)
        self._pod = StreamPod(claims, address, fleet=services.fleet, origin=services.origin)
        self._names = StreamNames(services.names, usage or PodUsage(PodLimits(), services.steady()), self._end_by_names)
        self._secrets = services.secrets.open(
            self._pod.key, token, claims, changed=self._secrets_changed, stale=self._token_stale
        )
        self._report = ReportSchedule(
            self,
            self._session,
            ProxyRecord(claims, services.clock),
            fleet=services.fleet,
            secrets=services.secrets,
            reporter=services.reporter,
            edge=services.edge,
        )
        self._wake = asyncio.Event()
        self._requests = RequestHandler(
            services,
            claims,
            self._session,
            key=self._pod.key,
            secrets=self._secrets,
            names=self._names,
            report=self._report,
            wake=self._wake.set,
        )
        self._write_timeout = WriteTimeout(services.limits.write_timeout, services.counters, channel)
        self._ended: StreamRefusedError | None = None
        self._client_done = False
        self._was_confirmed = False
        """Whether the log confirmed the snapshot while the stream was open."""

    @property
    def key(self) -> str:
        """`Proxy.key` of its proxy."""
        return self._pod.key

    @property
    def synced(self) -> bool:
        """Whether its proxy holds all of the newest view of its class."""
        view = self._session.view
        return view is not None and self._session.complete >= view.version

    def held(self) -> HeldConfig:
        """What its proxy holds, without secrets."""
        return HeldConfig(self._claims.namespace, self._claims.pod_name, self._held_types)

    def _held_types(self) -> tuple[HeldType, ...]:
        return tuple(
            HeldType(
                type_url,
                subscription.held.resources,
                subscription.refused,
                refusal.message if (refusal := self._report.record.refusals.get(type_url)) else "",
                subscription.in_flight is None,
            )
            for type_url, subscription in self._session.subscriptions.items()
            if type_url != SDS
        )

    def refresh(self) -> None:
        """Serve the newest snapshot and secrets: either may have changed for this proxy."""
        try:
            found = self._pod.look_up()
        except StreamRefusedError as refusal:
            self.end(refusal)
            return
        if found is None:
            return
        proxy, view = found
        fleet, session = self._services.fleet, self._session
        if self._report.workload_class != proxy.workload_class:
            fleet.assign(self, proxy.workload_class)
            self._report.workload_class = proxy.workload_class
        self._secrets.refresh()
        self._requests.sync_secrets()
        first = session.view is None
        session.show(view, fleet.version, fleet.snapshot.epoch)
        if first:
            # Until the pod was compiled, all names in its requests counted as names of no snapshot.
            for type_url in session.subscriptions:
                self._requests.count_names(type_url)
        self._wake.set()

    def end(self, why: StreamRefusedError) -> None:
        """End the stream with a status, after the message that is being written."""
        if self._ended is None:
            self._ended = why
            self._wake.set()

    def evict(self) -> None:
        """End the stream because the pod has opened too many since."""
        self.end(StreamRefusedError(Code.RESOURCE_EXHAUSTED, "stream/too-many", "the pod has opened too many streams"))

    async def run(self) -> None:
        """Serve until the client leaves, or raise the `StreamRefusedError` that ends the stream."""
        services = self._services
        services.fleet.join(self)
        services.counters.streams += 1
        services.counters.opened += 1
        reader = asyncio.get_running_loop().create_task(self._read(), name=f"reader of {self.key}")
        try:
            self.refresh()
            await self._wait_for_view()
            self._report.note(urgent=False)
            await self._write()
        finally:
            reader.cancel()
            self._write_timeout.close()
            self._secrets.close()
            self._names.close()
            services.fleet.leave(self)
            services.counters.streams -= 1
            self._report.end()

    async def _wait_for_view(self) -> None:
        """Wait until the pod is compiled: an empty response would make the proxy drop what it holds."""
        try:
            async with asyncio.timeout(self._services.limits.patience):
                while not self._pod.found and not self._client_done:
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
            # All messages are made before the first write: a commit between two writes may retire resources.
            messages = [self._message(offer) for offer in offers]
            for offer, message in zip(offers, messages, strict=True):
                with self._write_timeout:
                    await channel.write(*message)
                counters.pushes += 1
                counters.resources += len(offer.put)
                counters.removals += len(offer.removed)
                counters.pushed_bytes += sum(map(len, message))
            self._report.moved()
            await self._woken(session.wake_at)
        self._check_ended()

    def _may_serve(self) -> bool:
        """Whether the snapshot may be served to this proxy.

        While the log is away, the snapshot may be older than what another edge served to the proxy. Such a proxy gets
        nothing until the log confirms the snapshot (P3, P6). A stream that was confirmed once goes on, and a proxy
        that holds nothing gets the last good snapshot.
        """
        self._was_confirmed = self._was_confirmed or self._services.fleet.confirmed
        return self._was_confirmed or not self._requests.held_at_start

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
                self._requests.handle(*self._variant.decode(payload))
        except (BadRequestError, UnknownTypeError) as error:
            self.end(StreamRefusedError(Code.INVALID_ARGUMENT, error.code, error.sentence))
        except TooManyNamesError as error:
            self.end(StreamRefusedError(Code.RESOURCE_EXHAUSTED, error.code, error.sentence))
        except StreamRefusedError as refusal:
            self.end(refusal)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 (logged, and the stream ended)
            _log.exception("the stream of %s ends by a fault of ours", self.key)
            self.end(StreamRefusedError(Code.UNAVAILABLE, "stream/fault", type(error).__name__))
        finally:
            self._client_done = True
            self._wake.set()

    def _end_by_names(self) -> None:
        self.end(StreamRefusedError(Code.RESOURCE_EXHAUSTED, "stream/names", "the pod names more than it may"))

    def _secrets_changed(self) -> None:
        self._requests.sync_secrets()
        self._wake.set()

    def _token_stale(self) -> None:
        self.end(
            StreamRefusedError(
                Code.UNAVAILABLE, "stream/token-expired", "the token expired; come back with a fresh one"
            )
        )
