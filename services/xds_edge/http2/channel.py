"""The two directions of a stream, so that a stream can be tested without a network; `GrpcCall` is one."""

from __future__ import annotations

from typing import Protocol


class Channel(Protocol):
    """The two directions of a stream."""

    @property
    def delay(self) -> float:
        """Seconds that the message which is being written has waited for other writers; not the fault of its client."""
        ...

    async def read(self) -> bytes | None:
        """The next message, or None if the client has ended its side."""
        ...

    async def write(self, *parts: bytes) -> None:
        """Send a message, which may have several parts; waits while the client does not read."""
        ...
