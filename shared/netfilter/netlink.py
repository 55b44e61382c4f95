"""Netlink by hand: messages, attributes, and a socket that sends a batch and reads the kernel's verdicts.

The node's network and the sidecar's redirect are set through netlink, so that no system package (`ip`, `nft`,
`iptables`) is needed. A library for it, pyroute2, costs 0.33 s and 27 MB to import, in every pod's init container;
the part of the protocol that we need is this page. Layouts: `linux/netlink.h`, `netlink(7)`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec

ROUTE = 0
"""The `NETLINK_ROUTE` family: links, addresses, routes, neighbours."""
NETFILTER = 12
"""The `NETLINK_NETFILTER` family: nf_tables."""

REQUEST = 0x1
ACK = 0x4
REPLACE = 0x100
EXCL = 0x200
CREATE = 0x400
APPEND = 0x800

_ERROR = 2
_NESTED = 0x8000
_HEADER = struct.Struct("=IHHII")
_RECEIVE_BYTES = 1 << 18


class Message(msgspec.Struct, frozen=True):
    """One request: its type, its flags (`REQUEST` is added) and everything behind the netlink header."""

    kind: int
    flags: int
    body: bytes
    about: str = ""
    """What it asks for, in a person's words; it opens the sentence of an error."""


class NetlinkError(OSError):
    """The kernel refused a request: `errno` is the reason, the text names the request."""


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + b"\0" * (-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A zero-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """A number in the machine's byte order, as the route family wants it."""
    return attribute(kind, struct.pack("=I", value))


def be32(kind: int, value: int) -> bytes:
    """A number in network byte order, as nf_tables wants it."""
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


class NetlinkSocket:
    """A netlink socket of the network namespace in which it was made.

    The kernel works on a request while it is sent, so nothing here ever waits. A socket that was made in another
    namespace (and handed over as a descriptor) configures that namespace, in any process.
    """

    def __init__(self, family: int, *, made: socket.socket | None = None) -> None:
        self._socket = made or socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        self._sequence = 0

    def __enter__(self) -> Self:
        """Nothing to do: the socket is open from the start."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back; twice is once."""
        self._socket.close()

    def ask(self, messages: Sequence[Message]) -> None:
        """Send all in one datagram, each acknowledged; raise the first `NetlinkError`.

        The route family takes each message by itself: those before and after a refused one are in force.
        """
        self._send(messages, [message.flags | ACK for message in messages])
        self._collect(messages, expected=len(messages))

    def transact(self, messages: Sequence[Message]) -> None:
        """Send an nf_tables batch (begin … end): the kernel applies all of it or, with a `NetlinkError`, nothing.

        Only the last request is acknowledged; errors are always reported.
        """
        flags = [message.flags for message in messages]
        flags[-2] |= ACK
        self._send(messages, flags)
        self._collect(messages, expected=1)

    def _send(self, messages: Sequence[Message], flags: Sequence[int]) -> None:
        parts: list[bytes] = []
        for offset, message in enumerate(messages):
            length = _HEADER.size + len(message.body)
            parts.append(
                _HEADER.pack(length, message.kind, flags[offset] | REQUEST, self._sequence + offset, 0)
                + message.body
                + b"\0" * (-length % 4)
            )
        self._socket.send(b"".join(parts))

    def _collect(self, messages: Sequence[Message], *, expected: int) -> None:
        first, self._sequence = self._sequence, self._sequence + len(messages)
        answered = 0
        failure: NetlinkError | None = None
        while answered < expected:
            try:
                # The verdicts are there when send() returns. None left means that the kernel has answered.
                datagram = self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            for kind, sequence, payload in _split(datagram):
                if kind != _ERROR or not first <= sequence < first + len(messages):
                    continue
                answered += 1
                (negative,) = struct.unpack_from("=i", payload)
                if negative and failure is None:
                    failure = _error(-negative, messages[sequence - first].about)
        if failure is not None:
            raise failure
        if answered < expected:
            raise NetlinkError(0, "the kernel left a netlink request unanswered")


def _split(datagram: bytes) -> list[tuple[int, int, bytes]]:
    found: list[tuple[int, int, bytes]] = []
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, _, sequence, _ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size:
            break
        found.append((kind, sequence, datagram[offset + _HEADER.size : offset + length]))
        offset += length + (-length % 4)
    return found


def _error(number: int, about: str) -> NetlinkError:
    reason = os.strerror(number)
    return NetlinkError(number, f"{about}: {reason}" if about else reason)
