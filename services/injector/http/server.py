"""The webhook's server: TLS connections, each counted by its source from the moment that it is accepted.

Anybody on the cluster's network can connect, and mostly nothing tells the API server from a stranger. Where something
does, it is asked: networks before TLS, a client's certificate in TLS, its name before a request is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, cast

import msgspec

from services.injector.http import connection_gate
from services.injector.http.connection_handler import ConnectionHandler
from services.injector.http.fair_slots import BusyError, FairSlots
from services.injector.http.request import Handler, HttpLimits
from shared.errors import BadInputError

_log = logging.getLogger(__name__)
_BACKLOG = 512
_PAUSE = 0.05

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ClientAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Who may ask, as far as it is known."""

    networks: tuple[Network, ...] = ()
    """Networks that the API server calls from; none: any."""
    names: tuple[str, ...] = ()
    """Names that its certificate may bear; none: any. The TLS context says whether it needs one."""


class HttpServer:
    """Serves `handlers`, by path. `refused(word)` is told of each connection and request that is refused."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        context: Callable[[], ssl.SSLContext],
        limits: HttpLimits = HttpLimits(),  # noqa: B008 (frozen)
        access: ClientAccess = ClientAccess(),  # noqa: B008 (frozen)
        refused: Callable[[str], None] = lambda _word: None,
    ) -> None:
        self._context = context
        self._limits = limits
        self._networks = access.networks
        self._refused = refused
        self._conversation = ConnectionHandler(handlers, limits, names=access.names, refused=refused)
        self._gate = connection_gate.ConnectionGate(limits.connections)
        self._handshakes = FairSlots(limits.handshakes)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: socket.socket | None = None

    @property
    def connections(self) -> int:
        """Open connections."""
        return self._gate.open

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. Raises `BadInputError` if the address cannot be had."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            family, _, _, _, address = found[0]
            listening = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        except OSError as error:
            reason = f"cannot be listened on ({error.strerror or error}); choose another --webhook-port"
            raise BadInputError("inject/address", reason, about=f"{host}:{port}") from error
        listening.setblocking(False)
        self._listening = listening
        self._spawn(self._accept(listening))
        return int(listening.getsockname()[1])

    async def stop(self) -> None:
        """Stop listening, and end all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # What was cut off is closed in the next turn of the loop.
        await asyncio.sleep(0)
        if self._listening is not None:
            self._listening.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:
                # No more files, or a connection that ended before it was taken.
                _log.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(_PAUSE)
                continue
            self._take(connection, str(address[0]))

    def _take(self, connection: socket.socket, source: str) -> None:
        if not self._is_expected(source):
            self._refused("source")
            connection.close()
            return
        cut = _Abort(connection)
        visit, displaced = self._gate.enter(source, cut)
        if displaced is not None:
            self._refused("displaced")
            displaced.close()
        if visit is None:
            self._refused("connections")
            connection.close()
            return
        connection.setblocking(False)
        self._spawn(self._serve(connection, visit, cut))

    def _is_expected(self, source: str) -> bool:
        if not self._networks:
            return True
        address = ipaddress.ip_address(source.partition("%")[0])
        plain = getattr(address, "ipv4_mapped", None) or address
        return any(plain in network for network in self._networks)

    async def _serve(self, connection: socket.socket, visit: connection_gate.OpenConnection, cut: _Abort) -> None:
        try:
            with contextlib.closing(await self._handshake(connection, visit.source)) as stream:
                cut.transport = stream.writer.transport
                await self._conversation.hold(stream.reader, stream.writer, visit)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, BusyError) as error:
            if cut.transport is None:
                self._refused("handshake")
            _log.debug("a connection of %s ended: %s", visit.source, error)
        except asyncio.CancelledError:
            # The server stops: without the goodbye of TLS, for which nothing would wait.
            cut()
            raise
        finally:
            self._gate.leave(visit)
            if cut.transport is None:
                connection.close()

    async def _handshake(self, connection: socket.socket, source: str) -> _TlsStream:
        """Agree on TLS. A client that says nothing costs a socket; the others take turns, by source."""
        async with asyncio.timeout(self._limits.hello_seconds):
            await _readable(connection)
        async with self._handshakes.turn(source):
            return await self._agreed(connection)

    async def _agreed(self, connection: socket.socket) -> _TlsStream:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=self._limits.head_bytes, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            connection,
            ssl=self._context(),
            ssl_handshake_timeout=self._limits.handshake_seconds,
            ssl_shutdown_timeout=self._limits.linger_seconds,
        )
        # uvloop's transports are subclasses of none of asyncio's.
        writing = cast("asyncio.WriteTransport", transport)
        return _TlsStream(reader, asyncio.StreamWriter(writing, protocol, reader, loop))


async def _readable(connection: socket.socket) -> None:
    """Wait until the other side has said something, or has gone."""
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[None] = loop.create_future()

    def hear() -> None:
        if not heard.done():
            heard.set_result(None)

    loop.add_reader(connection, hear)
    try:
        await heard
    finally:
        loop.remove_reader(connection)


class _TlsStream:
    """Both directions of a connection in TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def close(self) -> None:
        self.writer.close()


class _Abort:
    """Ends a connection at once."""

    def __init__(self, connection: socket.socket) -> None:
        self.transport: asyncio.WriteTransport | None = None
        """Once TLS is agreed."""
        self._connection = connection

    def __call__(self) -> None:
        if self.transport is not None:
            self.transport.abort()
            return
        # Nothing can be read or written any more, so the handshake fails.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
