"""Decides which TCP connections may begin TLS, and which must go if there are too many.

Pure. A connection that has sent nothing costs a socket. One in TLS costs 60 kB and a millisecond, and is unproven until
a call shows a token. So connections wait outside of TLS for the first bytes of their client, and unproven connections
in TLS have a fixed number of places.

Places are fair by source address, not by order of arrival. Addresses take turns. If all places are taken, the address
with most of them gives one up to an address with fewer. So one address can use all free places, and cannot keep others
out.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from socket import socket
from typing import Protocol

import msgspec

from services.xds_edge.limits.largest_first import LargestFirst
from shared.timing.token_bucket import TokenBucket

_MIN_STAY = 0.25
"""Seconds that an unproven connection may stay in TLS before another address may take its place."""
_FORGET_ABOVE = 4096
"""Addresses without a connection that are remembered, so that an address cannot get a new burst by disconnecting."""
_FRAMES_A_CONNECTION = 40.0
"""Frames that an address may send for each connection that it may open; a first call needs 20."""


class ConnectionCaps(msgspec.Struct, frozen=True, kw_only=True):
    """Limits for the connections of one process."""

    connections: int = 12_000
    """Connections in TLS."""
    per_address: int = 4096
    """Connections of one address."""
    waiting: int = 4096
    """Connections whose client has sent nothing, or that wait for a place."""
    unproven: int = 512
    """Connections in TLS that have not shown a token."""
    new_per_address: float = 50.0
    """TLS handshakes that one address may begin a second."""
    new_per_address_burst: float = 200.0
    """TLS handshakes that one address may begin at once."""
    hello_within: float = 5.0
    """Seconds until a client must have sent its first bytes."""
    start_within: float = 10.0
    """Seconds that it may wait for a place after that."""

    @property
    def waiting_per_address(self) -> int:
        """Waiting connections of one address."""
        return max(1, self.waiting // 8)


class GateRefusal(Enum):
    """Why a connection is closed before TLS."""

    ADDRESS = "address-full"
    WAITING = "waiting-full"
    FULL = "full"
    SILENT = "hello-timeout"
    LATE = "start-timeout"
    DISPLACED = "displaced"


class Phase(Enum):
    """The phase of a connection."""

    SILENT = "silent"
    READY = "ready"
    UNPROVEN = "unproven"
    PROVEN = "proven"
    GONE = "gone"


class Abortable(Protocol):
    """A connection that can be closed at once."""

    def abort(self) -> None:
        """Close at once."""
        ...


class SourceAddress:
    """One address and its connections."""

    __slots__ = ("address", "frames", "handshakes", "proven", "ready", "silent", "unproven")

    def __init__(self, address: str, caps: ConnectionCaps, now: float) -> None:
        self.address = address
        self.silent: OrderedDict[GatedConnection, None] = OrderedDict()
        self.ready: OrderedDict[GatedConnection, None] = OrderedDict()
        self.unproven: OrderedDict[GatedConnection, None] = OrderedDict()
        self.proven = 0
        rate, burst = caps.new_per_address, caps.new_per_address_burst
        self.handshakes = TokenBucket(rate, burst, now)
        self.frames = TokenBucket(rate * _FRAMES_A_CONNECTION, burst * _FRAMES_A_CONNECTION, now)

    @property
    def waiting(self) -> int:
        """Connections outside of TLS."""
        return len(self.silent) + len(self.ready)

    @property
    def held(self) -> int:
        """All connections of the address."""
        return self.waiting + len(self.unproven) + self.proven

    def idle(self, now: float) -> bool:
        """Whether the address can be forgotten without loss."""
        return not self.held and self.handshakes.full(now) and self.frames.full(now)


class GatedConnection:
    """One TCP connection."""

    __slots__ = ("connection", "phase", "since", "sock", "source")

    def __init__(self, sock: socket | None, source: SourceAddress, since: float) -> None:
        self.sock = sock
        """Set until TLS owns it."""
        self.connection: Abortable | None = None
        """Set after the TLS handshake."""
        self.source = source
        self.since = since
        self.phase = Phase.SILENT


class ConnectionGate:
    """All connections. `now`: seconds of a steady clock."""

    def __init__(self, caps: ConnectionCaps) -> None:
        self._caps = caps
        self._sources: dict[str, SourceAddress] = {}
        self._forget_at = _FORGET_ABOVE
        self._silent: OrderedDict[GatedConnection, None] = OrderedDict()
        self._turns: OrderedDict[SourceAddress, None] = OrderedDict()
        """Addresses with a ready connection, in the order of their turns."""
        self._waiting: LargestFirst[SourceAddress] = LargestFirst()
        self._unproven: LargestFirst[SourceAddress] = LargestFirst()
        self.proven = 0
        """Connections that have shown a token."""

    @property
    def waiting(self) -> int:
        """Connections outside of TLS."""
        return self._waiting.total

    @property
    def unproven(self) -> int:
        """Connections in TLS that have not shown a token."""
        return self._unproven.total

    def arrive(
        self, sock: socket | None, address: str, now: float
    ) -> tuple[GatedConnection | GateRefusal, GatedConnection | None]:
        """Add an accepted connection: returns it, or why it is refused, and the connection that must go for it."""
        source = self._source(address, now)
        caps = self._caps
        if source.held >= caps.per_address or source.waiting >= caps.waiting_per_address:
            return GateRefusal.ADDRESS, None
        displaced: GatedConnection | None = None
        if self._waiting.total >= caps.waiting:
            most, crowd = self._waiting.most()
            if crowd is None or most <= source.waiting + 1:
                return GateRefusal.WAITING, None
            displaced = next(iter(crowd.silent or crowd.ready))
            self.leave(displaced)
        gated = GatedConnection(sock, source, now)
        self._enter(gated, Phase.SILENT)
        return gated, displaced

    def begin(self, gated: GatedConnection, now: float) -> None:
        """The client has sent its first bytes: the connection waits for a place in TLS."""
        if gated.phase is Phase.SILENT:
            self._exit(gated)
            gated.since = now
            self._enter(gated, Phase.READY)

    def admit(
        self, now: float, only: SourceAddress | None = None
    ) -> tuple[GatedConnection | None, GatedConnection | None]:
        """The connection that may begin TLS now, of all addresses or of one, and the one that must go for it."""
        full = self._unproven.total + self.proven >= self._caps.connections
        crowded = full or self._unproven.total >= self._caps.unproven
        for source in [only] if only is not None else list(self._turns):
            if source.handshakes.left(now) < 1:
                continue
            displaced = self._rival(source, now) if crowded else None
            if crowded and displaced is None:
                continue
            if displaced is not None:
                self.leave(displaced)
            gated = next(iter(source.ready))
            source.handshakes.spend(1)
            self._turns.move_to_end(source)
            self._exit(gated)
            gated.since = now
            self._enter(gated, Phase.UNPROVEN)
            return gated, displaced
        return None, None

    def _rival(self, source: SourceAddress, now: float) -> GatedConnection | None:
        """The unproven connection whose place this address may take, or None if no address has more places."""
        most, crowd = self._unproven.most()
        if crowd is None or most <= len(source.unproven) + 1:
            return None
        oldest = next(iter(crowd.unproven))
        return oldest if now - oldest.since >= _MIN_STAY else None

    def prove(self, gated: GatedConnection) -> None:
        """A call of the connection has shown a token."""
        if gated.phase is Phase.UNPROVEN:
            self._exit(gated)
            self._enter(gated, Phase.PROVEN)

    def leave(self, gated: GatedConnection) -> None:
        """The connection is gone, or must go."""
        self._exit(gated)
        gated.phase = Phase.GONE

    def overdue(self, now: float) -> list[tuple[GatedConnection, GateRefusal]]:
        """The connections that have waited for too long; they count as gone."""
        found: list[tuple[GatedConnection, GateRefusal]] = []
        for gated in self._silent:
            if now - gated.since < self._caps.hello_within:
                break
            found.append((gated, GateRefusal.SILENT))
        full = self._unproven.total + self.proven >= self._caps.connections and not self._unproven.total
        for source in self._turns:
            for gated in source.ready:
                if not full and now - gated.since < self._caps.start_within:
                    break
                found.append((gated, GateRefusal.FULL if full else GateRefusal.LATE))
        for gated, _ in found:
            self.leave(gated)
        return found

    def pause(self, now: float) -> float | None:
        """Seconds until `admit` may return a connection, or None if none waits."""
        if not self._turns:
            return None
        return max(0.02, min(source.handshakes.wait(now) for source in self._turns))

    def _source(self, address: str, now: float) -> SourceAddress:
        source = self._sources.get(address)
        if source is None:
            if len(self._sources) >= self._forget_at:
                for name in [name for name, one in self._sources.items() if one.idle(now)]:
                    del self._sources[name]
                self._forget_at = max(_FORGET_ABOVE, 2 * len(self._sources))
            source = self._sources[address] = SourceAddress(address, self._caps, now)
        return source

    def _enter(self, gated: GatedConnection, phase: Phase) -> None:
        source = gated.source
        gated.phase = phase
        match phase:
            case Phase.SILENT | Phase.READY:
                self._waiting.move(source, source.waiting, source.waiting + 1)
                if phase is Phase.SILENT:
                    source.silent[gated] = None
                    self._silent[gated] = None
                else:
                    source.ready[gated] = None
                    self._turns.setdefault(source)
            case Phase.UNPROVEN:
                self._unproven.move(source, len(source.unproven), len(source.unproven) + 1)
                source.unproven[gated] = None
            case Phase.PROVEN:
                source.proven += 1
                self.proven += 1
            case Phase.GONE:
                pass

    def _exit(self, gated: GatedConnection) -> None:
        source = gated.source
        match gated.phase:
            case Phase.SILENT | Phase.READY:
                self._waiting.move(source, source.waiting, source.waiting - 1)
                if gated.phase is Phase.SILENT:
                    del source.silent[gated]
                    del self._silent[gated]
                else:
                    del source.ready[gated]
                    if not source.ready:
                        self._turns.pop(source, None)
            case Phase.UNPROVEN:
                self._unproven.move(source, len(source.unproven), len(source.unproven) - 1)
                del source.unproven[gated]
            case Phase.PROVEN:
                source.proven -= 1
                self.proven -= 1
            case Phase.GONE:
                pass
