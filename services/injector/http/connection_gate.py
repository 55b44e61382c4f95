"""Counts the webhook's connections by source address, and chooses which one gives way when there are too many. Pure.

The API server is one source among others that may be hostile, and mostly nothing tells it apart. So shares are fair:
when all places are taken, a source gets one at the expense of the source that holds the most. One source can use all
places, and keeps no other source out.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many connections there may be."""

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
        """Cuts the connection off at once."""
        self.busy = False
        """Whether a request is being read or answered; one that waits for a request gives way first."""


class ConnectionGate:
    """All open connections."""

    def __init__(self, caps: ConnectionLimits) -> None:
        self._caps = caps
        self._visits: dict[str, dict[OpenConnection, None]] = {}
        """By source, in the order of arrival."""
        self.open = 0
        """How many there are."""

    def enter(self, source: str, close: Callable[[], None]) -> tuple[OpenConnection | None, OpenConnection | None]:
        """The new connection's visit (`None` if it is refused), and the visit that has to give way to it.

        The caller closes that one; it has left already.
        """
        own = self._visits.get(source, {})
        leaving: OpenConnection | None = None
        if len(own) >= self._caps.per_source:
            leaving = next((visit for visit in own if not visit.busy), None)
            if leaving is None:
                return None, None
        elif self.open >= self._caps.connections:
            largest = max(self._visits.values(), key=len)
            if len(largest) <= len(own) + 1:
                return None, None
            leaving = next((visit for visit in largest if not visit.busy), next(iter(largest)))
        if leaving is not None:
            self.leave(leaving)
        visit = OpenConnection(source, close)
        self._visits.setdefault(source, {})[visit] = None
        self.open += 1
        return visit, leaving

    def leave(self, visit: OpenConnection) -> None:
        """The connection is closed; said twice, it counts once."""
        own = self._visits.get(visit.source, {})
        if visit in own:
            del own[visit]
            self.open -= 1
            if not own:
                del self._visits[visit.source]
