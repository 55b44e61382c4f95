"""The streams of one mesh in memory, for tests and simulations."""

from __future__ import annotations

import time
from collections.abc import Callable

from shared.eventlog.foreign import ForeignRecords
from shared.eventlog.memory import MemoryLog
from shared.records.subjects import Streams
from shared.streams.specs import specs


class MemoryLogs:
    """The streams of one mesh in memory, by name; a `Logs`. Services under test share one."""

    def __init__(self, streams: Streams | None = None, *, clock: Callable[[], int] = time.time_ns) -> None:
        self.foreign = ForeignRecords()
        """Counts the skipped records of all streams."""
        self._specs = specs(streams or Streams())
        self._clock = clock
        self._open: dict[str, MemoryLog] = {}

    async def open(self, stream: str) -> MemoryLog:
        """The stream of that name, made at the first call; a name outside the mesh takes any subject."""
        return self.stream(stream)

    def stream(self, name: str) -> MemoryLog:
        """The same without waiting, for tests that reach into it."""
        if name not in self._open:
            self._open[name] = MemoryLog(self._specs.get(name, name), clock=self._clock, foreign=self.foreign)
        return self._open[name]

    async def ensure(self, *names: str) -> None:
        """Create the streams named, or all of the mesh."""
        for name in names or tuple(self._specs):
            self.stream(name)

    async def close(self) -> None:
        """End followers and takers."""
        for log in self._open.values():
            log.close()
