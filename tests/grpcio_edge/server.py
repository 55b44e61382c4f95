"""Aggregated discovery served by `grpc.aio`: a `DiscoveryServer` whose calls come from generic handlers.

Everything behind the call (admission, streams, CSDS, refusals) is `DiscoveryServer`'s own. The options are what gRPC's
documents recommend for a server that strangers reach, with the edge's own limits where gRPC has the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
import grpc.aio

from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.grpc.server import DiscoveryServer
from services.xds_edge.http2.call import GrpcCall
from services.xds_edge.http2.h2_rules import MOST_CALLS, MOST_HEADERS
from services.xds_edge.http2.keepalive import Http2Limits
from services.xds_edge.http2.write_scheduler import LONG, WriteScheduler
from services.xds_edge.tcp import tls_context
from shared.errors import BadInputError

CONNECTIONS = 10_000
"""Connections that may be open at a time (gRPC gives no limit per address)."""


def options(limits: Http2Limits, *, reuse_port: bool) -> list[tuple[str, int]]:
    """Channel arguments (grpc/impl/channel_arg_names.h)."""
    return [
        ("grpc.so_reuseport", int(reuse_port)),
        ("grpc.max_concurrent_streams", MOST_CALLS),
        ("grpc.max_allowed_incoming_connections", CONNECTIONS),
        ("grpc.max_receive_message_length", limits.max_request),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", MOST_HEADERS),
        ("grpc.absolute_max_metadata_size", MOST_HEADERS),
        ("grpc.keepalive_time_ms", int(limits.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", int(limits.keepalive_timeout * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        # Envoys ping; without these they are cut off with "too many pings".
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.max_connection_idle_ms", int(limits.keepalive * 1000)),
        ("grpc.max_connection_age_ms", int(limits.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", 5000),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.http.overload_protection", 1),
    ]


class ServicerCall:
    """A call of gRPC's with the methods of `services.xds_edge.http2.call.GrpcCall` that handlers use."""

    def __init__(self, path: str, context: Any, turns: WriteScheduler) -> None:
        """`context`: the `ServicerContext`."""
        self._context = context
        self._turns = turns
        self._turn: asyncio.Future[None] | None = None
        self._size = 0
        self._key: object = self
        self.delay = 0.0
        """Seconds that the message which is being written has waited for its turn."""
        self.path = path
        self.metadata = tuple((key, value) for key, value in context.invocation_metadata() or ())

    @property
    def peer(self) -> str:
        """Address of the client."""
        return str(self._context.peer())

    @property
    def address(self) -> str:
        """Not looked at here."""
        return ""

    def prove(self, usage: object) -> None:
        """Pods take turns; beside that nothing: gRPC has no limit for clients that have not shown a token."""
        self._key = usage

    def narrow(self, limit: int) -> None:
        """Nothing: gRPC has one limit for the messages of all calls."""

    async def read(self) -> bytes | None:
        """The next message; none: the client has ended its side."""
        message = await self._context.read()
        return message if isinstance(message, bytes) else None

    def proceed(self, most: int) -> tuple[int, bool]:  # noqa: ARG002 (gRPC takes messages whole)
        """Its turn has come; a `turns.Writer`."""
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)
        return self._size, False

    async def write(self, *parts: bytes) -> None:
        """Send a message; waits while the client takes no more."""
        message, self._size, self.delay = b"".join(parts), sum(map(len, parts)), 0.0
        if self._size >= LONG:
            loop = asyncio.get_running_loop()
            began, self._turn = loop.time(), loop.create_future()
            self._turns.ask(self._key, self)
            await self._turn
            self.delay = loop.time() - began
        try:
            await self._context.write(message)
        except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise StreamRefusedError(Code.UNAVAILABLE, "stream/gone", "the client has gone") from error


class _Handlers(grpc.GenericRpcHandler):
    """Every method as one of streams: on the wire there is no difference."""

    def __init__(self, serves: Callable[[str], bool], behave: Callable[[str, Any], Awaitable[None]]) -> None:
        self._serves = serves
        self._behave = behave

    def service(self, handler_call_details: Any) -> Any:
        """What serves a call; none: there is no such method."""
        path = str(handler_call_details.method)
        if not self._serves(path):
            return None

        async def behaviour(_unused: Any, context: Any) -> None:
            await self._behave(path, context)

        return grpc.stream_stream_rpc_method_handler(behaviour)


class GrpcioServer(DiscoveryServer):
    """The edge's server on `grpc.aio`."""

    _grpc: grpc.aio.Server | None = None

    async def start(self, host: str, port: int, certificate: Callable[[], tls_context.Presented | None]) -> None:
        """Listen. `certificate` gives the newest (key, chain), both PEM; raises `BadInputError`."""
        if (first := certificate()) is None:
            raise BadInputError("edge/certificate", "there is no certificate to serve with")
        held = first

        def newest() -> Any:
            """Called on a thread of gRPC's at each connection; none: nothing has changed."""
            nonlocal held
            now = certificate()
            if now is None or now == held:
                return None
            held = now
            return grpc.ssl_server_certificate_configuration([now])

        credentials = grpc.dynamic_ssl_server_credentials(grpc.ssl_server_certificate_configuration([first]), newest)
        self._grpc = server = grpc.aio.server(options=options(self._limits, reuse_port=self._reuse_port))
        server.add_generic_rpc_handlers((_Handlers(self.serves, self._behave),))
        try:
            self.port = server.add_secure_port(f"{host}:{port}", credentials)
        except RuntimeError as error:
            raise BadInputError(
                "edge/address", "cannot be listened on; choose another --port", about=f"{host}:{port}"
            ) from error
        await server.start()

    async def drain(self, within: float) -> None:
        """Stop: GOAWAY, end the streams spread over `within` seconds, then all the rest."""
        self._admission.draining = True
        if self._grpc is None:
            return
        stopping = asyncio.ensure_future(self._grpc.stop(within + 1.0))
        leaving = list(self._running.values())
        for stream in leaving:
            stream.end(StreamRefusedError(Code.UNAVAILABLE, "stream/draining", "this edge is stopping; use another"))
            await asyncio.sleep(within / len(leaving))
        await stopping

    async def abandon(self) -> None:
        """Stop at once."""
        if self._grpc is not None:
            await self._grpc.stop(None)

    def serves(self, path: str) -> bool:
        """Whether there is such a method."""
        return path in self._methods

    async def _behave(self, path: str, context: Any) -> None:
        try:
            call = cast("GrpcCall", ServicerCall(path, context, self._turns))
            await self._route(call)(call)
        except StreamRefusedError as refusal:
            await context.abort(grpc.StatusCode[refusal.status.name], refusal.sentence)
