"""How long a connection may stay: when a silent one is probed and given up, and an old one asked to move on; pure."""

from __future__ import annotations

from enum import Enum

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the server allows a connection."""

    keepalive: float = 30.0
    """Seconds of silence after which a connection is probed; also how long it may stay without a first call."""
    keepalive_timeout: float = 10.0
    """Seconds that the probe's answer may take."""
    max_connection_age: float = 1800.0
    """Seconds, ± 10 %, after which a connection is asked to move on: evens out replicas, brings fresh tokens."""
    max_request: int = 8 * 1024 * 1024
    """Bytes of a request: room for 50,000 resource versions at a reconnect."""


class Duty(Enum):
    """What is to be done about a connection."""

    NONE = "none"
    PROBE = "probe"
    """It is silent: ask for a sign of life."""
    CLOSE = "close"
    """It has made no call."""
    ABORT = "abort"
    """It did not answer the probe."""
    LEAVE = "leave"
    """It is old."""


class Lifetime:
    """The times of one connection, in seconds of its loop's clock."""

    __slots__ = ("_leaves_at", "_limits", "_probed", "heard", "used")

    def __init__(self, limits: Limits, now: float, *, chance: float) -> None:
        """`chance`: from 0 to 1, where in the ± 10 % of its age it leaves."""
        self._limits = limits
        self._probed: float | None = None
        self._leaves_at: float | None = now + limits.max_connection_age * (0.9 + 0.2 * chance)
        self.heard = now
        """When the client last said anything."""
        self.used = False
        """Whether it has made a call."""

    @property
    def due(self) -> float:
        """When to look next."""
        limits = self._limits
        due = self.heard + limits.keepalive if self._probed is None else self._probed + limits.keepalive_timeout
        return due if self._leaves_at is None else min(due, self._leaves_at)

    def look(self, now: float) -> Duty:
        """What is due; it counts as done. Look again at once until nothing is, or at `due`."""
        limits = self._limits
        if self._probed is not None and self.heard >= self._probed:
            self._probed = None
        if self._probed is not None and now >= self._probed + limits.keepalive_timeout:
            return Duty.ABORT
        if self._probed is None and now >= self.heard + limits.keepalive:
            if not self.used:
                return Duty.CLOSE
            self._probed = now
            return Duty.PROBE
        if self._leaves_at is not None and now >= self._leaves_at:
            self._leaves_at = None
            return Duty.LEAVE
        return Duty.NONE
