"""One connection of an attacker: raw bytes out, as fast as the server takes them or at a rate, over TCP or TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import cast

from tests.floods import wire
from tests.floods.dose import Count, Dose, Target

_MARK = 36
"""SO_MARK (asm-generic/socket.h)."""
_REOPEN = 0.02
"""Seconds between a connection that the server ended and the next."""
_HANDSHAKE = 15.0
"""Seconds that the attacker waits for a TLS handshake; a starved server is no reason to give up early."""


class GoneError(Exception):
    """The server ended the connection."""


class Assailant(asyncio.Protocol):
    """One connection. What arrives is read, counted and, for windows, understood."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._buffer = bytearray()
        self._widened = asyncio.Event()
        self._initial = wire.DEFAULT_WINDOW
        self._connection_window = wire.DEFAULT_WINDOW
        self._windows: dict[int, int] = {}
        self.gone = asyncio.Event()
        """Set when the connection has ended."""

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._count.opened += 1

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self._transport = None
        self.gone.set()
        self._writable.set()
        self._widened.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._count.received_bytes += len(data)
        self._buffer += data
        for frame in wire.frames(self._buffer):
            if frame.kind == wire.WINDOW:
                self._widen(frame.stream, int.from_bytes(frame.payload, "big"))
            elif frame.kind == wire.SETTINGS and not frame.flags & wire.ACK:
                self._take_settings(frame.payload)
            elif frame.kind == wire.RESET:
                self._count.resets += 1

    # What an attack does

    async def send(self, content: bytes, units: int = 1) -> None:
        """Write, once the network takes more; raises `GoneError`."""
        await self._writable.wait()
        if self._transport is None:
            raise GoneError
        self._transport.write(content)
        self._count.sent += units
        self._count.sent_bytes += len(content)

    async def send_data(self, stream: int, content: bytes, *, largest: int = wire.LONGEST_FRAME) -> None:
        """Write DATA within the server's windows, in frames of at most `largest` bytes; raises `GoneError`.

        A unit is a frame.
        """
        at = 0
        while at < len(content):
            room = min(self._connection_window, self._windows.setdefault(stream, self._initial), len(content) - at)
            if room <= 0:
                self._widened.clear()
                await self._widened.wait()
                if self._transport is None:
                    raise GoneError
                continue
            room = min(room, wire.LONGEST_FRAME if largest > 64 else 2048)
            parts = [
                wire.frame(wire.DATA, 0, stream, content[at + one : at + min(one + largest, room)])
                for one in range(0, room, largest)
            ]
            at += room
            self._connection_window -= room
            self._windows[stream] -= room
            await self.send(b"".join(parts), len(parts))

    def stop_reading(self) -> None:
        """Read nothing any more."""
        if self._transport is not None:
            self._transport.pause_reading()

    def abort(self) -> None:
        """Leave without a word."""
        if self._transport is not None:
            self._transport.abort()

    def _take_settings(self, payload: bytes) -> None:
        for identifier, value in struct.iter_unpack(">HI", payload[: len(payload) - len(payload) % 6]):
            if identifier == wire.INITIAL_WINDOW:
                grown, self._initial = value - self._initial, value
                self._windows = {stream: size + grown for stream, size in self._windows.items()}
        if self._transport is not None:
            self._transport.write(wire.frame(wire.SETTINGS, wire.ACK, 0))
        self._widened.set()

    def _widen(self, stream: int, size: int) -> None:
        if stream:
            self._windows[stream] = self._windows.get(stream, self._initial) + size
        else:
            self._connection_window += size
        self._widened.set()


Attack = Callable[[Assailant], Awaitable[None]]
"""What is done with one connection; it may end early, and is cut off at the end of the dose."""


class Pace:
    """Units a second of one connection."""

    def __init__(self, dose: Dose) -> None:
        self._rate = dose.rate / dose.connections
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()

    def chunk(self, most: int) -> int:
        """Units to send at once: ten milliseconds' worth, and no more than `most`."""
        return most if not self._rate else max(1, min(most, round(self._rate / 100)))

    async def wait(self, units: int) -> None:
        """Wait until more than these may be sent."""
        if not self._rate:
            await asyncio.sleep(0)
            return
        self._due = max(self._due + units / self._rate, self._loop.time() - 1.0)
        await asyncio.sleep(max(0.0, self._due - self._loop.time()))


def client_context(target: Target) -> ssl.SSLContext:
    """TLS as a gRPC client speaks it."""
    context = ssl.create_default_context(cafile=target.roots or None)
    if not target.roots:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


async def connect(target: Target, count: Count, number: int, context: ssl.SSLContext | None) -> Assailant | None:
    """Open a connection, of TLS if there is a context; none: it was refused."""
    loop = asyncio.get_running_loop()
    line = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        line.setblocking(False)
        if target.mark:
            line.setsockopt(socket.SOL_SOCKET, _MARK, target.mark)
        if target.sources:
            line.bind((target.sources[number % len(target.sources)], 0))
        await loop.sock_connect(line, (target.host, target.port))
        _, peer = await loop.create_connection(
            lambda: Assailant(count),
            sock=line,
            ssl=context,
            server_hostname=target.authority if context else None,
            ssl_handshake_timeout=_HANDSHAKE if context else None,
        )
    except (OSError, TimeoutError):
        count.refused += 1
        line.close()
        return None
    except asyncio.CancelledError:
        line.close()
        raise
    return peer


async def besiege(target: Target, dose: Dose, attack: Attack, *, tls: bool = True) -> Count:
    """Attack on so many connections at a time until the dose is over; one that the server ends is opened again."""
    count = Count()
    context = client_context(target) if tls else None
    held: set[Assailant] = set()

    async def keep(number: int) -> None:
        while True:
            peer = await connect(target, count, number, context)
            if peer is not None:
                held.add(peer)
                with contextlib.suppress(GoneError):
                    await attack(peer)
                    await peer.gone.wait()
                count.closed += 1
                held.discard(peer)
            await asyncio.sleep(_REOPEN)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(dose.duration):
            await asyncio.gather(*(keep(number) for number in range(dose.connections)))
    count.held = sum(not peer.gone.is_set() for peer in held)
    for peer in held:
        peer.abort()
    await asyncio.sleep(0)
    return count
