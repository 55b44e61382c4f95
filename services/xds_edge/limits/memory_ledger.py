"""How many bytes clients make this process keep: what one client, and all together, may have.

Two things are booked: requests that have arrived and wait to be read, and names that streams subscribe to. A client
that goes beyond the own limit loses the holder that did (a call, a stream). When all together go beyond theirs, the
client that holds most loses its largest holder, and not the client that came last.
"""

from __future__ import annotations

from typing import Protocol


class Holder(Protocol):
    """What makes us keep bytes."""

    def overflow(self) -> None:
        """Let go of all of it, and end; the ledger has forgotten it already."""
        ...


class ClientMemory:
    """What one client holds."""

    __slots__ = ("held", "holders")

    def __init__(self) -> None:
        self.held = 0
        self.holders: dict[Holder, int] = {}

    @property
    def largest(self) -> Holder | None:
        """What holds most; of equals the newest."""
        return max(reversed(self.holders), key=lambda holder: self.holders[holder], default=None)


class MemoryLedger:
    """All clients of one process."""

    def __init__(self, *, each: int, total: int) -> None:
        """Bytes that one client, and all together, may hold."""
        self._each = each
        self._total = total
        self._clients: dict[ClientMemory, None] = {}
        self.held = 0
        self.overflows = 0
        """Holders that were ended for it."""

    def add(self, client: ClientMemory, holder: Holder, size: int) -> None:
        """A holder holds so many bytes more, or less. It, or another, may be told to let go before this returns."""
        left = client.holders.get(holder, 0) + size
        client.held += size
        self.held += size
        if left:
            client.holders[holder] = left
            self._clients[client] = None
        else:
            client.holders.pop(holder, None)
            if not client.holders:
                self._clients.pop(client, None)
        if size <= 0:
            return
        if client.held > self._each:
            self._overflow(client, holder)
        while self.held > self._total:
            most = max(self._clients, key=lambda one: one.held)
            if (largest := most.largest) is None:
                return
            self._overflow(most, largest)

    def drop(self, client: ClientMemory, holder: Holder) -> None:
        """A holder is gone, with all that it held."""
        if held := client.holders.get(holder):
            self.add(client, holder, -held)

    def _overflow(self, client: ClientMemory, holder: Holder) -> None:
        self.drop(client, holder)
        self.overflows += 1
        holder.overflow()
