"""The webhook's server: accepts TLS connections and counts each by its source from then on.

Any client in the cluster's network can connect, and usually the API server cannot be distinguished from others. If it
can, the server checks the network before TLS, the certificate in TLS, and its name before it reads a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, cast

from services.injector.http import connection_gate
from services.injector.http.client_access import ClientAccess
from services.injector.http.connection_handler import ConnectionHandler
from services.injector.http.fair_slots import BusyError, FairSlots
from services.injector.http.limits import HttpLimits
from services.injector.http.request import Handler
from shared.errors import BadInputError

_log = logging.getLogger(__name__)
_BACKLOG = 512
_PAUSE = 0.05
"""Seconds to wait if a connection cannot be accepted."""


class HttpServer:
    """Serves `handlers`, by path. `refused(word)` is called for each refused connection and request."""

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
        self._access = access
        self._refused = refused
        self._handler = ConnectionHandler(handlers, limits, access=access, refused=refused)
        self._gate = connection_gate.ConnectionGate(limits.connections)
        self._handshakes = FairSlots(limits.handshakes)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: socket.socket | None = None

    @property
    def connections(self) -> int:
        """Open connections."""
        return self._gate.open

    async def start(self, host: str, port: int) -> int:
        """Listen. Returns the port. Raises `BadInputError` if the address cannot be used."""
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
        """Stop listening and end all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Aborted transports are closed in the next turn of the loop.
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
                # No free file descriptor, or the connection ended before it was accepted.
                _log.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(_PAUSE)
                continue
            self._take(connection, str(address[0]))

    def _take(self, connection: socket.socket, source: str) -> None:
        if not self._access.allows_source(source):
            self._refused("source")
            connection.close()
            return
        abort = _Abort(connection)
        entry, displaced = self._gate.enter(source, abort)
        if displaced is not None:
            self._refused("displaced")
            displaced.close()
        if entry is None:
            self._refused("connections")
            connection.close()
            return
        connection.setblocking(False)
        self._spawn(self._serve(connection, entry, abort))

    async def _serve(self, connection: socket.socket, entry: connection_gate.OpenConnection, abort: _Abort) -> None:
        try:
            with contextlib.closing(await self._handshake(connection, entry.source)) as stream:
                abort.transport = stream.writer.transport
                await self._handler.serve(stream.reader, stream.writer, entry)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, BusyError) as error:
            if abort.transport is None:
                self._refused("handshake")
            _log.debug("a connection of %s ended: %s", entry.source, error)
        except asyncio.CancelledError:
            # The server stops: abort, because nothing would wait for the shutdown of TLS.
            abort()
            raise
        finally:
            self._gate.leave(entry)
            if abort.transport is None:
                connection.close()

    async def _handshake(self, connection: socket.socket, source: str) -> _TlsStream:
        """Do the TLS handshake. A silent client costs a socket only; the others wait for a slot, fairly by source."""
        async with asyncio.timeout(self._limits.hello_seconds):
            await _readable(connection)
        async with self._handshakes.turn(source):
            return await self._start_tls(connection)

    async def _start_tls(self, connection: socket.socket) -> _TlsStream:
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
    """Wait until the client has sent data or has closed the connection."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def notify() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(connection, notify)
    try:
        await readable
    finally:
        loop.remove_reader(connection)


class _TlsStream:
    """Both directions of a TLS connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def close(self) -> None:
        self.writer.close()


class _Abort:
    """Aborts a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.transport: asyncio.WriteTransport | None = None
        """Set after the TLS handshake."""
        self._connection = connection

    def __call__(self) -> None:
        if self.transport is not None:
            self.transport.abort()
            return
        # The socket can neither be read nor written any more, so the handshake fails.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
