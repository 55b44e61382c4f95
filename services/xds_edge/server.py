"""Aggregated discovery over TLS: gRPC calls in, bytes in and bytes out.

Messages pass through as they are. The TLS certificate is asked for at every new connection, so it is renewed without
a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from services.xds_edge import csds, tls
from services.xds_edge.admission import Gatekeeper, StreamRefusedError
from services.xds_edge.calls import Call
from services.xds_edge.dialect import Delta, Dialect, World
from services.xds_edge.http2 import Connection
from services.xds_edge.lifetime import Limits
from services.xds_edge.requests import BadRequestError
from services.xds_edge.stream import ProxyStream, Services
from shared.errors import BadInputError

_LOGGER = logging.getLogger(__name__)

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
DELTA = "DeltaAggregatedResources"
WORLD = "StreamAggregatedResources"

_BACKLOG = 4096
"""Connections that may wait to be accepted: a storm is taken in, not turned away by the kernel."""
_HANDSHAKE = 10.0
"""Seconds that a TLS handshake may take."""


class DiscoveryServer:
    """Serves aggregated discovery, incremental and state of the world, on one port."""

    def __init__(
        self,
        services: Services,
        gatekeeper: Gatekeeper,
        limits: Limits | None = None,
        *,
        reuse_port: bool = False,
        mesh_namespace: str = "meshlog-system",
    ) -> None:
        """`reuse_port`: whether other processes may listen on the same port."""
        self._services = services
        self._mesh_namespace = mesh_namespace
        self._gatekeeper = gatekeeper
        self._limits = limits or Limits()
        self._reuse_port = reuse_port
        self._methods: dict[str, Callable[[Call], Awaitable[None]]] = {
            f"/{SERVICE}/{DELTA}": self._delta,
            f"/{SERVICE}/{WORLD}": self._world,
            f"/{csds.SERVICE}/{csds.FETCH}": self._fetch_status,
            f"/{csds.SERVICE}/{csds.STREAM}": self._stream_status,
        }
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._deserted = asyncio.Event()
        """Set while there is no connection."""
        self._deserted.set()
        self._running: dict[Call, ProxyStream] = {}
        self.port = 0
        """The port that is listened on."""

    async def start(self, host: str, port: int, certificate: Callable[[], tls.Presented | None]) -> None:
        """Listen. `certificate` gives the newest (key, chain), both PEM; raises `BadInputError`."""
        context = tls.server_context(certificate)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._connection,
                host,
                port,
                ssl=context,
                backlog=_BACKLOG,
                reuse_port=self._reuse_port or None,
                ssl_handshake_timeout=_HANDSHAKE,
                ssl_shutdown_timeout=1.0,
            )
        except OSError as error:
            raise BadInputError(
                "edge/address", "cannot be listened on; choose another --port", about=f"{host}:{port}"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def drain(self, within: float) -> None:
        """Stop: take no new streams, send GOAWAY, end the streams spread over `within` seconds, then all the rest."""
        self._gatekeeper.draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.leave()
        leaving = list(self._running.values())
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number, stream in enumerate(leaving):
            stream.end(StreamRefusedError("UNAVAILABLE", "stream/draining", "this edge is stopping; use another"))
            # A sleep takes a millisecond at least: of thousands of streams many end between two of them.
            early = began + within * number / len(leaving) - loop.time()
            if early > 0 or number % 100 == 0:
                await asyncio.sleep(max(0.0, early))
        await self._closed(within=1.0)

    async def abandon(self) -> None:
        """Stop at once, as a process that is killed does."""
        if self._server is not None:
            self._server.close()
        await self._closed(within=0.0)

    async def _closed(self, *, within: float) -> None:
        """Wait until every call has ended; after `within` seconds they are cut off."""
        tasks = [call.task for connection in self._connections for call in connection.calls.values() if call.task]
        if tasks and within:
            await asyncio.wait(tasks, timeout=within)
        for connection in list(self._connections):
            connection.abort()
        if tasks:
            await asyncio.wait(tasks)
        await self._deserted.wait()

    def _connection(self) -> Connection:
        return Connection(
            self._serve,
            self._limits,
            opened=self._opened,
            closed=self._lost,
            aged=self._aged,
        )

    def _opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._deserted.clear()

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._deserted.set()

    def _aged(self, connection: Connection) -> None:
        for call in connection.calls.values():
            if (stream := self._running.get(call)) is not None:
                stream.end(StreamRefusedError("UNAVAILABLE", "stream/aged", "the connection is old; open another"))

    async def _serve(self, call: Call) -> None:
        method = self._methods.get(call.path)
        if method is None:
            raise StreamRefusedError("UNIMPLEMENTED", "call/method", "there is no such method")
        try:
            await method(call)
        except StreamRefusedError as refusal:
            stream = self._running.get(call)
            self._services.counters.refused[refusal.code] += 1
            _LOGGER.info(
                "stream of %s refused or ended: %s",
                stream.key if stream is not None else call.peer,
                refusal.sentence,
                extra={"code": refusal.code, "status": refusal.status, "cause": str(refusal.__cause__ or "")},
            )
            raise
        except BadRequestError as error:
            raise StreamRefusedError("INVALID_ARGUMENT", error.code, error.sentence) from error
        finally:
            self._running.pop(call, None)

    def _status(self, payload: bytes, call: Call) -> bytes:
        """What proxies hold."""
        claims, _ = self._gatekeeper.identify(call.metadata)
        return csds.answer(
            payload,
            claims,
            [stream.held for stream in sorted(self._running.values(), key=lambda stream: stream.key)],
            mesh_namespace=self._mesh_namespace,
            body=self._services.fleet.body,
        )

    async def _fetch_status(self, call: Call) -> None:
        """What proxies hold, once."""
        payload = await call.read()
        if payload is None:
            raise StreamRefusedError("INVALID_ARGUMENT", "csds/malformed", "there is no request")
        await call.write(self._status(payload, call))

    async def _stream_status(self, call: Call) -> None:
        """The same, for each request of a stream."""
        while (payload := await call.read()) is not None:
            await call.write(self._status(payload, call))

    async def _delta(self, call: Call) -> None:
        await self._stream(call, Delta(self._services.responses))

    async def _world(self, call: Call) -> None:
        await self._stream(call, World(self._services.responses))

    async def _stream(self, call: Call, dialect: Dialect) -> None:
        claims, token = self._gatekeeper.admit(call.metadata)
        stream = self._running[call] = ProxyStream(self._services, call, claims, token, dialect)
        await stream.run()
