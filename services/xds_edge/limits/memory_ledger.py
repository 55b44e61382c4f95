"""Counts the bytes that clients make this process keep, with a limit for each client and one for all of them.

There are two ledgers: for requests that were received and wait to be read, and for names that streams subscribe to. If
a client exceeds its own limit, the holder (a call, a stream) that exceeded it is ended. If all clients together exceed
theirs, the largest holder of the largest client is ended, not the client that came last.
"""

from __future__ import annotations

from typing import Protocol


class Holder(Protocol):
    """Something that makes the process keep bytes."""

    def overflow(self) -> None:
        """Release all bytes and end; the ledger has forgotten them already."""
        ...


class ClientMemory:
    """The bytes that one client holds."""

    __slots__ = ("held", "holders")

    def __init__(self) -> None:
        self.held = 0
        self.holders: dict[Holder, int] = {}

    @property
    def largest(self) -> Holder | None:
        """The largest holder; among equals the newest."""
        return max(reversed(self.holders), key=lambda holder: self.holders[holder], default=None)


class MemoryLedger:
    """The bytes of all clients of one process."""

    def __init__(self, *, each: int, total: int) -> None:
        """Limits in bytes for one client, and for all together."""
        self._each = each
        self._total = total
        self._clients: dict[ClientMemory, None] = {}
        self.held = 0
        self.overflows = 0
        """Holders that were ended because of a limit."""

    def add(self, client: ClientMemory, holder: Holder, size: int) -> None:
        """Count `size` bytes more (or less) of a holder.

        This may end the holder, or another one, before it returns.
        """
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
        """Forget a holder and all its bytes."""
        if held := client.holders.get(holder):
            self.add(client, holder, -held)

    def _overflow(self, client: ClientMemory, holder: Holder) -> None:
        self.drop(client, holder)
        self.overflows += 1
        holder.overflow()
