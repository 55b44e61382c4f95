"""A time-out for the writes of one stream that costs next to nothing while the client reads.

A timer for each write costs a fifth of the write itself, and hardly any of them fires. Here a stream has at most one
timer. When it fires, it checks how long the current write has waited.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from services.xds_edge.counters import EdgeCounters
from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.http2.channel import Channel


class WriteTimeout:
    """Ends the task that stays in its block for longer than `limit` seconds; a reusable context manager.

    Raises `StreamRefusedError` in place of the cancellation that it causes.
    """

    __slots__ = ("_began", "_channel", "_counters", "_expired", "_limit", "_task", "_timer")

    def __init__(self, limit: float, counters: EdgeCounters, channel: Channel) -> None:
        self._channel = channel
        self._limit = limit
        self._counters = counters
        self._began: float | None = None
        self._expired = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        """A write begins."""
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        if self._timer is None:
            self._task = asyncio.current_task()
            self._timer = loop.call_at(self._began + self._limit, self._look)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The write has ended."""
        self._began = None
        if self._expired and kind is asyncio.CancelledError and self._task is not None and self._task.uncancel() <= 0:
            self._counters.write_timeouts += 1
            raise StreamRefusedError(
                Code.UNAVAILABLE, "stream/slow", f"a response was not read in {self._limit:g} s"
            ) from None

    def close(self) -> None:
        """The stream has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._task = None

    def _look(self) -> None:
        self._timer = None
        if self._began is None or self._task is None:
            return
        loop = asyncio.get_running_loop()
        due = self._began + self._limit + self._channel.delay
        if loop.time() < due:
            self._timer = loop.call_at(due, self._look)
            return
        self._expired = True
        self._task.cancel()
