"""Limits the webhook's connections by source address, and chooses which one to close if there are too many.

The API server is one source among others that may be hostile, and usually cannot be distinguished. Shares are fair: if
all places are taken, a new connection displaces one of the source with the most connections. One source can use all
places, but excludes no other source.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of connections that are allowed."""

    connections: int = 384
    """Open connections of all sources."""
    per_source: int = 192
    """Open connections of one source."""


class OpenConnection:
    """One open connection."""

    __slots__ = ("busy", "close", "source")

    def __init__(self, source: str, close: Callable[[], None]) -> None:
        self.source = source
        self.close = close
        """Aborts the connection."""
        self.busy = False
        """Whether a request is being read or answered. Connections that are not busy are displaced first."""


class ConnectionGate:
    """All open connections."""

    def __init__(self, caps: ConnectionLimits) -> None:
        self._caps = caps
        self._connections: dict[str, dict[OpenConnection, None]] = {}
        """Source → its connections, in the order of arrival."""
        self.open = 0
        """Number of open connections."""

    def enter(self, source: str, close: Callable[[], None]) -> tuple[OpenConnection | None, OpenConnection | None]:
        """Add a connection. Returns its entry (`None` if it is refused), and the entry that it displaces, if any.

        The displaced entry has left already; the caller closes its connection.
        """
        own = self._connections.get(source, {})
        leaving: OpenConnection | None = None
        if len(own) >= self._caps.per_source:
            leaving = next((entry for entry in own if not entry.busy), None)
            if leaving is None:
                return None, None
        elif self.open >= self._caps.connections:
            largest = max(self._connections.values(), key=len)
            if len(largest) <= len(own) + 1:
                return None, None
            leaving = next((entry for entry in largest if not entry.busy), next(iter(largest)))
        if leaving is not None:
            self.leave(leaving)
        entry = OpenConnection(source, close)
        self._connections.setdefault(source, {})[entry] = None
        self.open += 1
        return entry, leaving

    def leave(self, entry: OpenConnection) -> None:
        """Remove a closed connection. A second call has no effect."""
        own = self._connections.get(entry.source, {})
        if entry in own:
            del own[entry]
            self.open -= 1
            if not own:
                del self._connections[entry.source]
