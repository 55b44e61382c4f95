"""The two directions of a stream, so that one can be tried without a network; `calls.Call` is one."""

from __future__ import annotations

from typing import Protocol


class Channel(Protocol):
    """The two directions of a stream."""

    @property
    def delay(self) -> float:
        """Seconds that the message which is being written has waited for others: not its client's fault."""
        ...

    async def read(self) -> bytes | None:
        """The next message; none: the client has ended its side."""
        ...

    async def write(self, *parts: bytes) -> None:
        """Send a message, which may be in parts; waits while the client does not read."""
        ...
