"""Schedules long writes: pods take turns, and one round of the event loop writes only a little.

Writing 5 MB takes a tenth of a second. If much is due at once, because one pod opened many streams, because a client
requests megabytes, or because a fleet reconnects, everything else would wait for all of it. So long messages are
written in pieces. Only written bytes count: a client with closed windows uses nothing of a round. Short responses are
not scheduled unless a part of them must wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Protocol

from services.xds_edge.limits.loop_pacing import call_soon_paced

LONG = 32 * 1024
"""Bytes from which a message waits for its turn."""
_A_ROUND = 16 * 1024
"""Bytes that are written in one round of the loop that is not slow."""
_USUAL = 0.001
"""Seconds that such a round takes at most. After slower rounds more is written, so that 16 MB a second can always be
written."""
_MOST = 8
"""How many times as much at most."""
_A_GO = 8 * 1024
"""Bytes that one message writes before the next pod has its turn."""
_LEAST = 256
"""Bytes that a turn counts at least: to find that nothing can be written takes time too."""


class ScheduledWrite(Protocol):
    """A message that is written in turns."""

    def proceed(self, most: int) -> tuple[int, bool]:
        """Write at most `most` bytes now; returns how many were written, and whether it needs another turn.

        If nothing can be written now, it needs none, and asks again later.
        """
        ...


class WriteScheduler:
    """The queue of scheduled writes."""

    def __init__(self, a_round: int = _A_ROUND, a_go: int = _A_GO) -> None:
        self._a_round = a_round
        self._a_go = a_go
        self._lines: OrderedDict[Hashable, deque[ScheduledWrite]] = OrderedDict()
        self._coming = False
        self._began = 0.0
        """When the last round began, in seconds of the clock of the loop."""

    def ask(self, key: Hashable, writer: ScheduledWrite) -> None:
        """Have `writer` write when it is its turn; `key`: whose turn that is."""
        self._lines.setdefault(key, deque()).append(writer)
        if not self._coming:
            self._began = asyncio.get_running_loop().time()
            self._schedule_round()

    def _schedule_round(self) -> None:
        self._coming = True
        call_soon_paced(self._round)

    def _round(self) -> None:
        self._coming = False
        now = asyncio.get_running_loop().time()
        left = round(self._a_round * min(_MOST, max(1.0, (now - self._began) / _USUAL)))
        self._began = now
        while left > 0 and self._lines:
            key, line = self._lines.popitem(last=False)
            writer = line.popleft()
            if line:
                self._lines[key] = line
            written, again = writer.proceed(min(self._a_go, left))
            left -= max(written, _LEAST)
            if again:
                self._lines.setdefault(key, line).append(writer)
        if self._lines and not self._coming:
            self._schedule_round()
