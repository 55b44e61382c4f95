"""HTTP/2 frames as bytes, right ones and wrong ones: no library that keeps the rules lets an attacker break them.

RFC 9113 for the frames, RFC 7541 for the headers (literals without indexing and without Huffman coding), gRPC's
"PROTOCOL-HTTP2" for the calls.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
ALTSVC = 10
UNKNOWN = 0xFA
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
INITIAL_WINDOW = 0x4
HEADER_TABLE_SIZE = 0x1
LONGEST_FRAME = 16_384
DEFAULT_WINDOW = 65_535
WIDEST_WINDOW = 2**31 - 1

DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
CSDS_FETCH = "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus"
CSDS_STREAM = "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW, 0, stream, struct.pack(">I", size))


def reset(stream: int, code: int = 8) -> bytes:
    """A RST_STREAM frame; 8 is CANCEL."""
    return frame(RESET, 0, stream, struct.pack(">I", code))


def _integer(number: int, prefix: int, first: int) -> bytes:
    """RFC 7541, section 5.1."""
    most = (1 << prefix) - 1
    if number < most:
        return bytes((first | number,))
    out = bytearray((first | most,))
    number -= most
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def literal(name: bytes, value: bytes, *, indexed: bool = False) -> bytes:
    """A header field; `indexed`: it enters the receiver's dynamic table (RFC 7541, sections 6.2.1 and 6.2.2)."""
    return (b"\x40" if indexed else b"\x00") + _integer(len(name), 7, 0) + name + _integer(len(value), 7, 0) + value


def reference(index: int) -> bytes:
    """A header field that a table holds (RFC 7541, section 6.1)."""
    return _integer(index, 7, 0x80)


def call_headers(path: str, *, authority: str, token: str = "", more: Iterable[tuple[str, str]] = ()) -> bytes:
    """The header block of a gRPC call."""
    pairs = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *((("authorization", f"Bearer {token}"),) if token else ()),
        *more,
    ]
    return b"".join(literal(name.encode(), value.encode()) for name, value in pairs)


def opening(stream: int, block: bytes, *, ends: bool = False) -> bytes:
    """HEADERS, and CONTINUATION if the block is longer than a frame."""
    parts = [block[at : at + LONGEST_FRAME] for at in range(0, len(block), LONGEST_FRAME)] or [b""]
    out: list[bytes] = []
    for number, part in enumerate(parts):
        flags = END_HEADERS if number == len(parts) - 1 else 0
        kind = CONTINUATION if number else HEADERS
        out.append(frame(kind, flags | (END_STREAM if ends and not number else 0), stream, part))
    return b"".join(out)


def message(content: bytes) -> bytes:
    """A gRPC message with its prefix."""
    return b"\0" + struct.pack(">I", len(content)) + content


class Frame(NamedTuple):
    """A frame that arrived."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frames(buffer: bytearray) -> list[Frame]:
    """Take the whole frames off the front of what arrived."""
    found: list[Frame] = []
    at = 0
    while len(buffer) - at >= 9:
        size = int.from_bytes(buffer[at : at + 3], "big")
        if len(buffer) - at - 9 < size:
            break
        payload = bytes(buffer[at + 9 : at + 9 + size])
        stream = int.from_bytes(buffer[at + 5 : at + 9], "big") & 0x7FFF_FFFF
        found.append(Frame(buffer[at + 3], buffer[at + 4], stream, payload))
        at += 9 + size
    del buffer[:at]
    return found
