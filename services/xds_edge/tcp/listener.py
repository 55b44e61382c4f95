"""Accepts TCP connections, and starts TLS for those that the connection gate admits.

asyncio's own server makes the TLS objects of a connection, 60 kB, when it is accepted. Here a connection is a bare
socket until its client has sent the beginning of a TLS handshake. One connection too many is reset, which costs 20 µs.

Each process that shares the port (SO_REUSEPORT) has its own listener and caps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
import struct
from collections.abc import Callable

from services.xds_edge.http2.connection import Http2Connection
from services.xds_edge.limits.loop_pacing import call_soon_paced
from services.xds_edge.tcp.connection_gate import ConnectionGate, GatedConnection, GateRefusal, Phase, SourceAddress
from services.xds_edge.tcp.tls_handshake import HandshakeProtocol
from shared.errors import BadInputError

_log = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that may wait to be accepted: in a storm the kernel keeps them instead of refusing them."""
_ACCEPTED_A_TURN = 16
_A_START = 0.001
"""Seconds for which one TLS handshake is begun, so that other work runs: each takes half a millisecond, and a member
that connects meanwhile needs ten rounds of the loop. After slow rounds as many are begun as time has passed."""
_MOST_STARTED = 8
"""TLS handshakes begun in a round at most."""
_AT_ONCE = 4
"""TLS handshakes begun at once in a round, for addresses with no other under way, which are mostly members."""
_LOOK_EVERY = 1.0
_RECEIVED = 64 * 1024
"""Bytes that the kernel buffers of a client's data, charged to the memory limit of this process."""
_UNSENT = 128 * 1024
"""The same of data for a client that does not read; by default the kernel would buffer 4 MB for each connection."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes a close a reset: the kernel keeps nothing of the connection."""
_SPARE_FILES = 256
"""Files that connections must leave for other uses."""
_TLS_HANDSHAKE = 0x16
"""First byte of a TLS handshake (RFC 8446, section 5.1)."""
_NO_MORE_FILES = 0.2
"""Seconds until the next attempt after file descriptors ran out."""

Make = Callable[[GatedConnection], Http2Connection]


class Listener:
    """The listener of one port."""

    def __init__(
        self,
        gate: ConnectionGate,
        make: Make,
        context: ssl.SSLContext,
        *,
        handshake_within: float,
        note: Callable[[str], None],
    ) -> None:
        """`make` the connection of an admitted client; `note` why one was closed before there was a connection."""
        self._gate = gate
        self._make = make
        self._context = context
        self._handshake_within = handshake_within
        self._note = note
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._gated: set[GatedConnection] = set()
        """Connections before the end of their TLS handshake."""
        self._handshakes: dict[GatedConnection, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._starter: asyncio.Handle | None = None
        self._at_once = 0
        """Handshakes begun at once in this round of the loop."""
        self._began = 0.0
        """When the next start was requested, in seconds of the clock of the loop."""
        self._later: asyncio.TimerHandle | None = None
        self.port = 0
        """The port listened on."""

    async def start(self, host: str, port: int, *, reuse_port: bool) -> None:
        """Listen; raises `BadInputError`."""
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, address in dict.fromkeys(found):
                self._sockets.append(sock := socket.socket(family, kind, protocol))
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # Connections inherit both.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNSENT)
                if reuse_port:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(address)
                sock.listen(BACKLOG)
        except OSError as error:
            self.close()
            raise BadInputError(
                "edge/address", "cannot be listened on; choose another --port", about=f"{host}:{port}"
            ) from error
        for sock in self._sockets:
            self._loop.add_reader(sock, self._accept, sock)
        self.port = self._sockets[0].getsockname()[1]
        self._timer = self._loop.call_later(_LOOK_EVERY, self._look)

    def close(self) -> None:
        """Stop accepting, and close all connections before the end of their handshake."""
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()
        for timer in (self._timer, self._starter, self._later):
            if timer is not None:
                timer.cancel()
        for gated in list(self._gated):
            self._gate.leave(gated)
            self._end(gated)

    async def closed(self) -> None:
        """Wait until no handshake is under way."""
        if self._handshakes:
            await asyncio.wait(list(self._handshakes.values()))

    def proven(self, gated: GatedConnection) -> None:
        """A call of the connection has shown a token."""
        self._gate.prove(gated)

    def gone(self, gated: GatedConnection) -> None:
        """The connection has ended."""
        self._gate.leave(gated)
        self._start_soon()

    # Accepting

    def _accept(self, listening: socket.socket) -> None:
        now = self._loop.time()
        for _ in range(_ACCEPTED_A_TURN):
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # No file descriptor is left: asyncio's own server waits in this case too.
                _log.warning("no connection can be accepted now: %s", error)
                self._note("no-files")
                self._loop.remove_reader(listening)
                self._loop.call_later(_NO_MORE_FILES, self._accept_again, listening)
                return
            sock.setblocking(False)
            gated, displaced = self._gate.arrive(sock, address[0], now)
            if displaced is not None:
                self._refuse(displaced, GateRefusal.DISPLACED)
            if isinstance(gated, GateRefusal):
                _reset(sock)
                self._note(gated.value)
                continue
            self._gated.add(gated)
            self._loop.add_reader(sock, self._readable, gated)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def _readable(self, gated: GatedConnection) -> None:
        """The client has sent bytes, or has gone."""
        sock = gated.sock
        assert sock is not None
        self._loop.remove_reader(sock)
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except OSError:
            first = b""
        if not first or first[0] != _TLS_HANDSHAKE:
            self._gate.leave(gated)
            self._gated.discard(gated)
            _reset(sock)
            if first:
                self._note("not-tls")
            return
        now = self._loop.time()
        self._gate.begin(gated, now)
        if gated.source.unproven or self._at_once >= _AT_ONCE or not self._admit(now, gated.source):
            self._start_soon()
        else:
            self._at_once += 1
            if self._at_once == 1:
                self._loop.call_soon(self._next_round)

    def _next_round(self) -> None:
        self._at_once = 0

    # Starting

    def _start_soon(self) -> None:
        if self._starter is None and self._sockets:
            self._began = self._loop.time()
            self._starter = call_soon_paced(self._start)

    def _start(self) -> None:
        """Begin the handshakes whose turn it is."""
        self._starter = None
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if not self._sockets:
            return
        now = self._loop.time()
        for _ in range(max(1, min(_MOST_STARTED, int((now - self._began) / _A_START)))):
            if not self._admit(now):
                pause = self._gate.pause(now)
                if pause is not None:
                    self._later = self._loop.call_later(pause, self._start_soon)
                return
        self._start_soon()

    def _admit(self, now: float, only: SourceAddress | None = None) -> bool:
        """Begin one handshake, of all addresses or of one; returns whether there was one to begin."""
        gated, displaced = self._gate.admit(now, only)
        if displaced is not None:
            self._refuse(displaced, GateRefusal.DISPLACED)
        if gated is None:
            return False
        self._handshakes[gated] = task = self._loop.create_task(self._handshake(gated), name="TLS handshake")
        task.add_done_callback(lambda task, gated=gated: self._started(gated, task))
        return True

    async def _handshake(self, gated: GatedConnection) -> None:
        sock = gated.sock
        assert sock is not None

        def make() -> Http2Connection:
            gated.connection = connection = self._make(gated)
            return connection

        def refuse() -> None:
            self._note("alpn")
            self.gone(gated)

        try:
            await self._loop.connect_accepted_socket(
                lambda: HandshakeProtocol(make, refuse),
                sock,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_within,
                ssl_shutdown_timeout=1.0,
            )
        except OSError as error:
            # This includes TLS errors and the time-out.
            self._note("tls")
            _log.debug("TLS with %s failed: %s", gated.source.address, error)
            if gated.phase is not Phase.GONE:
                self.gone(gated)

    def _started(self, gated: GatedConnection, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(gated, None)
        self._gated.discard(gated)
        gated.sock = None
        self._start_soon()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a TLS handshake ended with a fault of the server's", exc_info=error)

    # Ending

    def _refuse(self, gated: GatedConnection, why: GateRefusal) -> None:
        self._note(why.value)
        self._end(gated)

    def _end(self, gated: GatedConnection) -> None:
        """End a connection in any phase."""
        sock = gated.sock
        if gated not in self._handshakes and sock is not None:
            self._gated.discard(gated)
            self._loop.remove_reader(sock)
            _reset(sock)
        elif sock is not None:
            # TLS owns the socket; it sees the end of the connection and gives up.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        elif gated.connection is not None:
            gated.connection.abort()

    def _look(self) -> None:
        self._timer = self._loop.call_later(_LOOK_EVERY, self._look)
        for gated, why in self._gate.overdue(self._loop.time()):
            self._refuse(gated, why)


def _reset(sock: socket.socket) -> None:
    """Close so that neither the process nor the kernel keeps anything of the connection."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


def allowed_files() -> int:
    """Connections for which this process has file descriptors, after raising the limit as far as possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return max(64, soft - _SPARE_FILES)
