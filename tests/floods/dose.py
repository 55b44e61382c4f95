"""What an attack aims at, how much of it there is, and what came of it."""

from __future__ import annotations

import msgspec


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A server under attack: on loopback, or in namespaces of our own."""

    host: str = "127.0.0.1"
    port: int
    authority: str
    """Name in the server's certificate, and in `:authority`."""
    roots: str = ""
    """File of the roots that the server's certificate is checked against, PEM; empty: it is not checked."""
    sources: tuple[str, ...] = ()
    """Local addresses that connections come from, in turn; none: as the machine chooses."""
    mark: int = 0
    """Socket mark (SO_MARK) that passes the redirect of a meshed pod; 0: none."""
    token: str = ""
    """Token of a workload; floods after authentication need one."""


class Dose(msgspec.Struct, frozen=True, kw_only=True):
    """How much of an attack: every flood is bounded in time by `duration`, and in connections."""

    duration: float = 1.0
    """Seconds."""
    rate: float = 0.0
    """Units (frames, calls, connections) a second over all connections; 0: as many as the server takes."""
    connections: int = 1
    """Connections at a time; of a flood of connections: connections in all."""


class Count(msgspec.Struct, kw_only=True):
    """What an attack did, and what the server did about it."""

    sent: int = 0
    """Units sent: frames, calls, bytes of a message, or connections, as the flood says."""
    sent_bytes: int = 0
    received_bytes: int = 0
    opened: int = 0
    """Connections established, with TLS where the flood uses TLS."""
    refused: int = 0
    """Attempts to connect that failed."""
    closed: int = 0
    """Established connections that the server ended."""
    resets: int = 0
    """Calls that the server reset (RST_STREAM)."""
    held: int = 0
    """Connections that were still open at the end."""
