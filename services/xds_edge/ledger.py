"""Bytes that clients sent and that no handler has read yet: how many one client and all together may have.

A message may be larger than the window of its stream, so a stream's window opens while the message arrives; the
connection's window opens at once, so that no call waits for another (RFC 9113, section 5.2.2, warns of that deadlock).
What bounds memory is this ledger. Who goes beyond the own limit loses the call that did. When all together go beyond
theirs, the client that holds most loses its largest call, and not the client that came last.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Holder(Protocol):
    """A call, as the ledger sees it."""

    @property
    def unread(self) -> int:
        """Bytes that it holds."""
        ...

    def overflow(self) -> None:
        """Give up what is held, and end with RESOURCE_EXHAUSTED; `Ledger.give` is called meanwhile."""
        ...


class Client:
    """What one client holds; the key is whatever counts as one client: a pod."""

    __slots__ = ("_calls", "unread")

    def __init__(self) -> None:
        self.unread = 0
        self._calls: dict[Holder, None] = {}

    def hold(self, call: Holder, size: int) -> None:
        """Count `size` bytes more for a call."""
        self.unread += size
        self._calls[call] = None

    def release(self, call: Holder, size: int) -> None:
        """Count them no more."""
        self.unread -= size
        if not call.unread:
            self._calls.pop(call, None)

    @property
    def largest(self) -> Holder | None:
        """The call that holds most; of equals the newest."""
        return max(reversed(self._calls), key=lambda call: call.unread, default=None)


class Ledger:
    """All clients of one process."""

    def __init__(self, *, each: int, total: int) -> None:
        """Bytes that one client, and all together, may leave unread."""
        self._each = each
        self._total = total
        self._clients: dict[Client, None] = {}
        self.held = 0
        self.overflows = 0
        """Calls that were ended for it."""

    def take(self, client: Client, call: Holder, size: int) -> None:
        """Count bytes that arrived for a call; `call.unread` holds them already."""
        client.hold(call, size)
        self.held += size
        self._clients[client] = None
        if client.unread > self._each:
            self._overflow(call)
        while self.held > self._total and (largest := _largest(self._clients)) is not None:
            self._overflow(largest)

    def give(self, client: Client, call: Holder, size: int) -> None:
        """Bytes were read, or thrown away; `call.unread` holds them no more."""
        client.release(call, size)
        self.held -= size
        if not client.unread:
            self._clients.pop(client, None)

    def _overflow(self, call: Holder) -> None:
        self.overflows += 1
        call.overflow()


def _largest(clients: Iterable[Client]) -> Holder | None:
    return max(clients, key=lambda client: client.unread).largest
