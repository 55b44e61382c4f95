"""The gRPC side: aggregated discovery over TLS, bytes in and bytes out.

Messages pass through without gRPC's serialisers. The TLS certificate is asked for at every new connection, so it is
renewed without a restart. The keepalive settings accept what Envoy and gRPC clients send ("too many pings" would cut
them off) and close half-open connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import msgspec

from services.xds_edge import csds
from services.xds_edge.admission import Gatekeeper, StreamRefusedError
from services.xds_edge.dialect import Delta, Dialect, World
from services.xds_edge.requests import BadRequestError
from services.xds_edge.stream import ProxyStream, Services
from shared.errors import BadInputError

_LOGGER = logging.getLogger(__name__)

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
DELTA = "DeltaAggregatedResources"
WORLD = "StreamAggregatedResources"


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the server does to connections."""

    keepalive: float = 30.0
    """Seconds of silence after which a connection is probed."""
    keepalive_timeout: float = 10.0
    """Seconds that the probe's answer may take."""
    max_connection_age: float = 1800.0
    """Seconds, ± 10 %, after which a connection is asked to move on: evens out replicas, brings fresh tokens."""
    reuse_port: bool = False
    """Whether other processes may listen on the same port."""
    max_request: int = 8 * 1024 * 1024
    """Bytes of a request: room for 50,000 resource versions at a reconnect."""

    def options(self) -> list[tuple[str, int]]:
        """As gRPC's channel arguments."""
        return [
            ("grpc.max_receive_message_length", self.max_request),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", int(self.keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", int(self.keepalive_timeout * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.max_connection_age_ms", int(self.max_connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", 5000),
            ("grpc.so_reuseport", int(self.reuse_port)),
        ]


class _CallChannel:
    """A gRPC call as a `Channel`."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def read(self) -> bytes | None:
        """The next message; none at the end."""
        message = await self._context.read()
        return message if isinstance(message, bytes) else None

    async def write(self, message: bytes) -> None:
        """Send a message."""
        await self._context.write(message)


class DiscoveryServer:
    """Serves aggregated discovery, incremental and state of the world, on one port."""

    def __init__(
        self,
        services: Services,
        gatekeeper: Gatekeeper,
        limits: ServerLimits | None = None,
        *,
        mesh_namespace: str = "meshlog-system",
    ) -> None:
        self._services = services
        self._mesh_namespace = mesh_namespace
        self._gatekeeper = gatekeeper
        self._server = grpc.aio.server(options=(limits or ServerLimits()).options())
        delta: Callable[[Any, Any], Awaitable[None]] = self._delta
        world: Callable[[Any, Any], Awaitable[None]] = self._world
        handlers = {
            DELTA: grpc.stream_stream_rpc_method_handler(delta),
            WORLD: grpc.stream_stream_rpc_method_handler(world),
        }
        status = {
            csds.FETCH: grpc.unary_unary_rpc_method_handler(self._fetch_status),
            csds.STREAM: grpc.stream_stream_rpc_method_handler(self._stream_status),
        }
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, handlers),
                grpc.method_handlers_generic_handler(csds.SERVICE, status),
            )
        )
        self._running: set[ProxyStream] = set()
        self.port = 0
        """The port that is listened on."""

    async def start(self, host: str, port: int, certificate: Callable[[], tuple[bytes, bytes] | None]) -> None:
        """Listen. `certificate` gives the newest (key, chain), both PEM; raises `BadInputError`."""
        presented = certificate()
        if presented is None:
            raise BadInputError("edge/certificate", "there is no certificate to serve with")

        def fetch() -> Any:
            # None keeps what is in use: OpenSSL's context is not made anew for each connection of a storm.
            nonlocal presented
            newest = certificate()
            if newest is None or newest == presented:
                return None
            presented = newest
            return grpc.ssl_server_certificate_configuration([newest])

        credentials = grpc.dynamic_ssl_server_credentials(
            grpc.ssl_server_certificate_configuration([presented]), fetch, require_client_authentication=False
        )
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise BadInputError(
                "edge/address", "cannot be listened on; choose another --port", about=address
            ) from error
        if not self.port:
            raise BadInputError("edge/address", "cannot be listened on; choose another --port", about=address)
        await self._server.start()

    async def drain(self, within: float) -> None:
        """Stop: take no new streams, send GOAWAY, end the streams spread over `within` seconds, then all the rest."""
        self._gatekeeper.draining = True
        stopping = asyncio.ensure_future(self._server.stop(within + 1.0))
        leaving = list(self._running)
        pause = within / len(leaving) if leaving else 0.0
        for stream in leaving:
            stream.end(StreamRefusedError("UNAVAILABLE", "stream/draining", "this edge is stopping; use another"))
            await asyncio.sleep(pause)
        await stopping

    async def abandon(self) -> None:
        """Stop at once, as a process that is killed does."""
        await self._server.stop(None)

    async def _fetch_status(self, payload: bytes, context: Any) -> bytes:
        """What proxies hold, once."""
        try:
            claims, _ = self._gatekeeper.identify(context.invocation_metadata() or ())
            return csds.answer(
                payload,
                claims,
                [stream.held for stream in sorted(self._running, key=lambda stream: stream.key)],
                mesh_namespace=self._mesh_namespace,
                body=self._services.fleet.body,
            )
        except StreamRefusedError as refusal:
            self._services.counters.refused[refusal.code] += 1
            await context.abort(getattr(grpc.StatusCode, refusal.status), refusal.sentence)
        except BadRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.sentence)
        raise AssertionError("an aborted call goes on")

    async def _stream_status(self, _requests: Any, context: Any) -> None:
        """The same, for each request of a stream."""
        while isinstance(payload := await context.read(), bytes):
            await context.write(await self._fetch_status(payload, context))

    async def _delta(self, _requests: Any, context: Any) -> None:
        await self._stream(context, Delta(self._services.responses))

    async def _world(self, _requests: Any, context: Any) -> None:
        await self._stream(context, World(self._services.responses))

    async def _stream(self, context: Any, dialect: Dialect) -> None:
        counters = self._services.counters
        stream: ProxyStream | None = None
        try:
            claims, token = self._gatekeeper.admit(context.invocation_metadata() or ())
            stream = ProxyStream(self._services, _CallChannel(context), claims, token, dialect)
            self._running.add(stream)
            await stream.run()
        except StreamRefusedError as refusal:
            counters.refused[refusal.code] += 1
            _LOGGER.info(
                "stream of %s refused or ended: %s",
                stream.key if stream is not None else context.peer(),
                refusal.sentence,
                extra={"code": refusal.code, "status": refusal.status, "cause": str(refusal.__cause__ or "")},
            )
            await context.abort(getattr(grpc.StatusCode, refusal.status), refusal.sentence)
        finally:
            if stream is not None:
                self._running.discard(stream)
