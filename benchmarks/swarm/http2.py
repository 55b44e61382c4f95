"""One gRPC stream over one HTTP/2 connection, as an asyncio protocol: no more than a proxy's side of ADS needs.

Each proxy of a swarm has a connection of its own, as Envoys do. A gRPC library costs more per message than most
servers under test, so frames are made and read here (RFC 9113): settings, pings and windows are answered, headers
that arrive are not decoded (an ended stream is an ended stream), nothing is compressed.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable
from typing import cast

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_INITIAL_WINDOW = 0x4
_MAX_FRAME = 16_384
_DEFAULT_WINDOW = 65_535
_OUR_WINDOW = 4 * 1024 * 1024


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing and without Huffman coding (RFC 7541, section 6.2.2)."""
    return b"\x00" + _integer(len(name)) + name + _integer(len(value)) + value


def _integer(number: int) -> bytes:
    """With a prefix of seven bits (RFC 7541, section 5.1)."""
    if number < 0x7F:
        return bytes((number,))
    out = bytearray((0x7F,))
    number -= 0x7F
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class GrpcStream(asyncio.Protocol):
    """A bidirectional gRPC call, alone on its connection."""

    def __init__(
        self,
        *,
        authority: str,
        path: str,
        metadata: Iterable[tuple[str, str]],
        tls: bool,
        message: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> None:
        self._opening = b"".join(
            _literal(name.encode(), value.encode())
            for name, value in (
                (":method", "POST"),
                (":scheme", "https" if tls else "http"),
                (":path", path),
                (":authority", authority),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                *metadata,
            )
        )
        self._message = message
        self._ended: Callable[[], None] | None = ended
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._body = bytearray()
        self._unsent = bytearray()
        self._windows = [_DEFAULT_WINDOW, _DEFAULT_WINDOW]
        """What may be sent: on the connection, on the stream."""
        self._initial_window = _DEFAULT_WINDOW
        self._owed = 0
        self.leaving = False
        """Whether the server asked to go elsewhere (GOAWAY)."""

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open the call."""
        self._transport = cast("asyncio.Transport", transport)
        settings = struct.pack(">HIHI", 0x2, 0, _INITIAL_WINDOW, _OUR_WINDOW)
        self._transport.write(
            PREFACE
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW, 0, 0, struct.pack(">I", _OUR_WINDOW))
            + _frame(_HEADERS, _END_HEADERS, 1, self._opening)
        )
        self._opening = b""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        """Report the end of the call."""
        self._end()

    def data_received(self, data: bytes) -> None:
        """Read frames."""
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 9:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) - at - 9 < size:
                break
            payload = bytes(buffer[at + 9 : at + 9 + size])
            self._take(buffer[at + 3], buffer[at + 4], int.from_bytes(buffer[at + 5 : at + 9], "big"), payload)
            at += 9 + size
        del buffer[:at]

    # The call

    def send(self, message: bytes) -> None:
        """Send a message; it waits here while the server's windows are closed."""
        self._unsent += b"\x00" + struct.pack(">I", len(message)) + message
        self._flush()

    def pause(self) -> None:
        """Read nothing any more: what a hung proxy does."""
        if self._transport is not None:
            self._transport.pause_reading()

    def close(self) -> None:
        """Leave, as a process that ends does."""
        self._ended = None
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        while self._unsent and self._transport is not None:
            size = min(len(self._unsent), _MAX_FRAME, *self._windows)
            if size <= 0:
                return
            self._transport.write(_frame(_DATA, 0, 1, bytes(self._unsent[:size])))
            del self._unsent[:size]
            self._windows = [window - size for window in self._windows]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._take_data(flags, payload)
        elif kind == _RESET or (kind == _HEADERS and flags & _END_STREAM):
            self._end()
        elif kind == _SETTINGS and not flags & _ACK:
            self._take_settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW:
            self._windows[1 if stream else 0] += int.from_bytes(payload, "big")
            self._flush()
        elif kind == _GOAWAY:
            self.leaving = True

    def _take_settings(self, payload: bytes) -> None:
        for identifier, value in struct.iter_unpack(">HI", payload):
            if identifier == _INITIAL_WINDOW:
                self._windows[1] += value - self._initial_window
                self._initial_window = value
        self._write(_frame(_SETTINGS, _ACK, 0))
        self._flush()

    def _take_data(self, flags: int, payload: bytes) -> None:
        self._owed += len(payload)
        if self._owed > _OUR_WINDOW // 4:
            grown = struct.pack(">I", self._owed)
            self._write(_frame(_WINDOW, 0, 0, grown) + _frame(_WINDOW, 0, 1, grown))
            self._owed = 0
        if flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        body = self._body
        body += payload
        while len(body) >= 5:
            size = int.from_bytes(body[1:5], "big")
            if len(body) < 5 + size:
                break
            message = bytes(body[5 : 5 + size])
            del body[: 5 + size]
            self._message(message)
        if flags & _END_STREAM:
            self._end()

    def _write(self, content: bytes) -> None:
        if self._transport is not None:
            self._transport.write(content)

    def _end(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()
        if self._transport is not None:
            self._transport.close()
            self._transport = None
