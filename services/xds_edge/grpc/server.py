"""The discovery server: routes gRPC calls over TLS to ADS streams and to client status discovery.

Messages pass as bytes. The TLS certificate is read at each new connection, so that it is renewed without a restart. A
call is routed by its headers, its token first, and no message of a call without a token is read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from services.xds_edge.admission.authentication import StreamAdmission
from services.xds_edge.admission.pod_presence import PodPresence
from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.grpc import csds
from services.xds_edge.grpc.ads_stream import ProxyStream
from services.xds_edge.grpc.csds_service import MOST_REQUEST, ClientStatusService
from services.xds_edge.grpc.stream_services import StreamServices
from services.xds_edge.http2.call import GrpcCall, Handler
from services.xds_edge.http2.connection import Http2Connection
from services.xds_edge.http2.keepalive import Http2Limits
from services.xds_edge.http2.write_scheduler import WriteScheduler
from services.xds_edge.limits.memory_ledger import MemoryLedger
from services.xds_edge.limits.pod_usage import PodLimits, PodUsage, PodUsages
from services.xds_edge.tcp import tls_context
from services.xds_edge.tcp.connection_gate import ConnectionCaps, ConnectionGate, GatedConnection
from services.xds_edge.tcp.listener import Listener, allowed_files
from services.xds_edge.xds.request_decode import BadRequestError
from services.xds_edge.xds.variants import DeltaVariant, SotwVariant, Variant
from shared.identity.service_account_tokens import WorkloadToken
from shared.names import MESH_NAMESPACE
from shared.telemetry.metrics import Metrics
from shared.timing.token_bucket import TokenBucket

_log = logging.getLogger(__name__)

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
DELTA = "DeltaAggregatedResources"
SOTW = "StreamAggregatedResources"

_UNREAD_OF_A_POD = 4
"""Requests of the greatest size that one pod may have unread."""

_LINES, _LINES_BURST = 20.0, 500.0
"""Log lines about refusals: a second, and at once. All refusals are counted."""

Serve = Callable[[GrpcCall, WorkloadToken, str, PodUsage], Awaitable[None]]


class DiscoveryServer:
    """Serves aggregated discovery, in both variants, and client status on one port."""

    def __init__(
        self,
        services: StreamServices,
        admission: StreamAdmission,
        limits: Http2Limits | None = None,
        *,
        caps: ConnectionCaps | None = None,
        pod_limits: PodLimits | None = None,
        unread: int = 128 * 1024 * 1024,
        handshake_within: float = 5.0,
        reuse_port: bool = False,
        mesh_namespace: str = MESH_NAMESPACE,
        pods: PodPresence,
    ) -> None:
        """`unread`: bytes of requests of all clients that may wait to be read.

        `reuse_port`: whether other processes may listen on the port too.
        """
        self._services = services
        self._admission = admission
        self._limits = limits or Http2Limits()
        self._handshake_within = handshake_within
        self._reuse_port = reuse_port
        self.usages = PodUsages(pod_limits)
        self.ledger = MemoryLedger(each=_UNREAD_OF_A_POD * self._limits.max_request, total=unread)
        caps = caps or ConnectionCaps()
        files = allowed_files()
        if caps.connections + caps.waiting > files:
            share = files / (caps.connections + caps.waiting)
            caps = msgspec.structs.replace(
                caps, connections=int(caps.connections * share), waiting=int(caps.waiting * share)
            )
            _log.warning("open files are limited: %d connections are taken at most", caps.connections)
        self.gate = ConnectionGate(caps)
        self._turns = WriteScheduler()
        self._client_status = ClientStatusService(
            pods,
            lambda: [stream.held() for stream in sorted(self._running.values(), key=lambda stream: stream.key)],
            services.fleet.body,
            mesh_namespace=mesh_namespace,
            write_timeout=services.limits.write_timeout,
            counters=services.counters,
        )
        self._methods: dict[str, Serve] = {
            f"/{SERVICE}/{DELTA}": self._delta,
            f"/{SERVICE}/{SOTW}": self._sotw,
            f"/{csds.SERVICE}/{csds.FETCH}": self._fetch_status,
            f"/{csds.SERVICE}/{csds.STREAM}": self._stream_status,
        }
        self._listener: Listener | None = None
        self._connections: set[Http2Connection] = set()
        self._no_connections = asyncio.Event()
        """Set while there are no connections."""
        self._no_connections.set()
        self._running: dict[GrpcCall, ProxyStream] = {}
        self.gone = 0
        """Connections that have ended since the start."""
        self._lines = TokenBucket(_LINES, _LINES_BURST, asyncio.get_running_loop().time())
        self.port = 0
        """The port listened on."""

    async def start(self, host: str, port: int, certificate: Callable[[], tls_context.Presented | None]) -> None:
        """Listen. `certificate` returns the newest (key, chain), both PEM. Raises `BadInputError`."""
        self._listener = Listener(
            self.gate,
            self._connection,
            tls_context.server_context(certificate),
            handshake_within=self._handshake_within,
            note=self._note,
        )
        await self._listener.start(host, port, reuse_port=self._reuse_port)
        self.port = self._listener.port

    def expose(self, metrics: Metrics) -> None:
        """Expose the usage by clients, and its limits, as metrics."""
        gate, names = self.gate, self._services.names
        metrics.gauge(
            "meshlog_edge_connections",
            "Connections: waiting outside of TLS, in TLS without a token yet, and proven by one.",
            lambda: {
                (("phase", "waiting"),): float(gate.waiting),
                (("phase", "unproven"),): float(gate.unproven),
                (("phase", "proven"),): float(gate.proven),
            },
        )
        metrics.gauge(
            "meshlog_edge_unread_bytes", "Bytes of requests that wait to be whole or read.", lambda: self.ledger.held
        )
        metrics.gauge("meshlog_edge_named_bytes", "Bytes of names that streams keep.", lambda: names.all.held)
        metrics.gauge(
            "meshlog_edge_foreign_named_bytes",
            "Bytes of names that streams keep and that are in no snapshot.",
            lambda: names.foreign.held,
        )

    async def drain(self, within: float) -> None:
        """Stop: refuse new streams, send GOAWAY, end all streams within `within` seconds, then close everything."""
        self._admission.draining = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.leave()
        leaving = list(self._running.values())
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number, stream in enumerate(leaving):
            stream.end(StreamRefusedError(Code.UNAVAILABLE, "stream/draining", "this edge is stopping; use another"))
            # A sleep takes at least a millisecond, so of thousands of streams many end between two sleeps.
            early = began + within * number / len(leaving) - loop.time()
            if early > 0 or number % 100 == 0:
                await asyncio.sleep(max(0.0, early))
        await self._closed(within=1.0)

    async def abandon(self) -> None:
        """Stop at once, like a killed process."""
        if self._listener is not None:
            self._listener.close()
        await self._closed(within=0.0)

    async def _closed(self, *, within: float) -> None:
        """Wait until every call has ended; after `within` seconds they are aborted."""
        tasks = [call.task for connection in self._connections for call in connection.calls.values() if call.task]
        if tasks and within:
            await asyncio.wait(tasks, timeout=within)
        for connection in list(self._connections):
            connection.abort()
        if tasks:
            await asyncio.wait(tasks)
        if self._listener is not None:
            await self._listener.closed()
        for connection in list(self._connections):
            connection.abort()
        await self._no_connections.wait()

    def _connection(self, gated: GatedConnection) -> Http2Connection:
        assert self._listener is not None
        listener = self._listener

        def lost(connection: Http2Connection) -> None:
            self.gone += 1
            self._connections.discard(connection)
            if not self._connections:
                self._no_connections.set()
            listener.gone(gated)

        connection = Http2Connection(
            self._route,
            self._limits,
            ledger=self.ledger,
            address_allowance=gated.source.frames,
            turns=self._turns,
            proven=lambda _: listener.proven(gated),
            closed=lost,
            aged=self._aged,
            note=self._note,
        )
        self._connections.add(connection)
        self._no_connections.clear()
        return connection

    def _note(self, reason: str) -> None:
        self._services.counters.closed[reason] += 1

    def _aged(self, connection: Http2Connection) -> None:
        for call in connection.calls.values():
            if (stream := self._running.get(call)) is not None:
                stream.end(StreamRefusedError(Code.UNAVAILABLE, "stream/aged", "the connection is old; open another"))

    def _route(self, call: GrpcCall) -> Handler:
        """The handler of a call whose token is valid; raises `StreamRefusedError`."""
        try:
            serve, claims, token, usage = self._admit(call)
        except StreamRefusedError as refusal:
            self._log_refusal(call, refusal)
            raise

        async def handle(call: GrpcCall) -> None:
            await self._serve(serve, call, claims, token, usage)

        return handle

    def _admit(self, call: GrpcCall) -> tuple[Serve, WorkloadToken, str, PodUsage]:
        serve = self._methods.get(call.path)
        if serve is None:
            raise StreamRefusedError(Code.UNIMPLEMENTED, "call/method", "there is no such method")
        claims, token = self._admission.identify(call.metadata)
        now = asyncio.get_running_loop().time()
        usage = self.usages.of(claims.pod_uid, now)
        call.prove(usage)
        if not usage.opens(now):
            raise StreamRefusedError(Code.UNAVAILABLE, "stream/pod-paced", "the pod opens too many streams; come back")
        self._admission.admit()
        return serve, claims, token, usage

    async def _serve(self, serve: Serve, call: GrpcCall, claims: WorkloadToken, token: str, usage: PodUsage) -> None:
        try:
            await serve(call, claims, token, usage)
        except StreamRefusedError as refusal:
            self._log_refusal(call, refusal)
            raise
        except BadRequestError as error:
            raise StreamRefusedError(Code.INVALID_ARGUMENT, error.code, error.sentence) from error
        finally:
            self._running.pop(call, None)

    def _may_log(self) -> bool:
        """Whether one more refusal may be logged: clients decide their number."""
        if self._lines.left(asyncio.get_running_loop().time()) < 1:
            return False
        self._lines.spend(1)
        return True

    def _log_refusal(self, call: GrpcCall, refusal: StreamRefusedError) -> None:
        stream = self._running.get(call)
        self._services.counters.refused[refusal.code] += 1
        if not self._may_log():
            return
        _log.info(
            "stream of %s refused or ended: %s",
            stream.key if stream is not None else call.peer,
            refusal.sentence,
            extra={"code": refusal.code, "status": refusal.status.name, "cause": str(refusal.__cause__ or "")},
        )

    async def _fetch_status(self, call: GrpcCall, claims: WorkloadToken, _token: str, usage: PodUsage) -> None:
        """What proxies hold, once."""
        call.narrow(MOST_REQUEST)
        await self._client_status.fetch(call, claims, usage)

    async def _stream_status(self, call: GrpcCall, claims: WorkloadToken, _token: str, usage: PodUsage) -> None:
        """What proxies hold, for each request of a stream."""
        call.narrow(MOST_REQUEST)
        await self._client_status.stream(call, claims, usage)

    async def _delta(self, call: GrpcCall, claims: WorkloadToken, token: str, usage: PodUsage) -> None:
        await self._stream(call, claims, token, usage, DeltaVariant(self._services.responses))

    async def _sotw(self, call: GrpcCall, claims: WorkloadToken, token: str, usage: PodUsage) -> None:
        await self._stream(call, claims, token, usage, SotwVariant(self._services.responses))

    async def _stream(
        self, call: GrpcCall, claims: WorkloadToken, token: str, usage: PodUsage, variant: Variant
    ) -> None:
        stream = self._running[call] = ProxyStream(
            self._services, call, claims, token, variant, usage=usage, address=call.address
        )
        self.usages.join(usage, stream)
        try:
            await stream.run()
        finally:
            self.usages.leave(usage, stream)
