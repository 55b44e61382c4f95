"""The lifetime of a connection: when a silent one is probed, an unproven or idle one closed, an old one moved on.

Pure. Only calls with a valid token count as use: neither frames nor refused calls keep a connection open.
"""

from __future__ import annotations

from enum import Enum

import msgspec


class Http2Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the server allows a connection."""

    keepalive: float = 30.0
    """Seconds of silence after which a connection is probed."""
    keepalive_timeout: float = 10.0
    """Seconds that the probe's answer may take."""
    prove_within: float = 10.0
    """Seconds until a call of the connection must have shown a valid token."""
    idle: float = 60.0
    """Seconds that a proven connection may stay without a call."""
    max_connection_age: float = 1800.0
    """Seconds, ± 10 %, after which the client is asked to reconnect: this balances replicas and brings fresh tokens."""
    max_request: int = 8 * 1024 * 1024
    """Bytes of a request: room for 50,000 resource versions at a reconnect."""
    request_within: float = 30.0
    """Seconds that one request may take to arrive."""
    write_timeout: float = 20.0
    """Seconds that a client may leave all sent bytes unread."""
    debt: float = 10.0
    """Seconds that a connection may exceed its allowance of frames."""


class ConnectionAction(Enum):
    """What is due for a connection."""

    NONE = "none"
    PROBE = "probe"
    """It is silent: send a PING."""
    UNPROVEN = "unproven"
    """No call of it has shown a token: close it."""
    IDLE = "idle"
    """It has had no call for long: ask it to leave."""
    ABORT = "abort"
    """It did not answer the PING."""
    LEAVE = "leave"
    """It is old: ask it to leave."""


class ConnectionLifetime:
    """The times of one connection, in seconds of the clock of its loop."""

    __slots__ = ("_leaves_at", "_limits", "_probed", "_proves_by", "_unused_since", "heard")

    def __init__(self, limits: Http2Limits, now: float, *, chance: float) -> None:
        """`chance`: from 0 to 1, where in the ± 10 % of its age it leaves."""
        self._limits = limits
        self._probed: float | None = None
        self._leaves_at: float | None = now + limits.max_connection_age * (0.9 + 0.2 * chance)
        self._proves_by: float | None = now + limits.prove_within
        self._unused_since: float | None = now
        self.heard = now
        """When bytes were last received."""

    @property
    def proven(self) -> bool:
        """Whether a call has shown a token."""
        return self._proves_by is None

    def prove(self) -> None:
        """A call has shown a token."""
        self._proves_by = None

    def use(self) -> None:
        """A call was accepted."""
        self._unused_since = None

    def rest(self, now: float) -> None:
        """The last call ended; a call that was refused changes nothing."""
        if self._unused_since is None:
            self._unused_since = now

    @property
    def due(self) -> float:
        """When to call `look` next."""
        limits = self._limits
        times = [self.heard + limits.keepalive if self._probed is None else self._probed + limits.keepalive_timeout]
        if self._leaves_at is not None:
            times.append(self._leaves_at)
        if self._proves_by is not None:
            times.append(self._proves_by)
        elif self._unused_since is not None:
            times.append(self._unused_since + limits.idle)
        return min(times)

    def look(self, now: float) -> ConnectionAction:
        """The action that is due; it counts as done. Call again until it is NONE, and at `due`."""
        limits = self._limits
        if self._proves_by is not None and now >= self._proves_by:
            return ConnectionAction.UNPROVEN
        if self._probed is not None and self.heard >= self._probed:
            self._probed = None
        if self._probed is not None and now >= self._probed + limits.keepalive_timeout:
            return ConnectionAction.ABORT
        if self._unused_since is not None and now >= self._unused_since + limits.idle:
            self._unused_since = None
            return ConnectionAction.IDLE
        if self._probed is None and now >= self.heard + limits.keepalive:
            self._probed = now
            return ConnectionAction.PROBE
        if self._leaves_at is not None and now >= self._leaves_at:
            self._leaves_at = None
            return ConnectionAction.LEAVE
        return ConnectionAction.NONE
