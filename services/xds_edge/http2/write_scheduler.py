"""Who writes next of those that have much to say: pods take turns, and no round of the loop writes more than a little.

To write 5 MB takes a tenth of a second. When much is due at once, because one pod opened many streams, because it asks
for megabytes, or because a fleet came back, all else would wait for all of it. So what is long is written a piece in
each go, and what counts is what was written: a client whose windows are shut takes nothing of a round. Short responses
do not pass here, unless a part of them has to wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Protocol

from services.xds_edge.limits.loop_pacing import call_soon_paced

LONG = 32 * 1024
"""Bytes of a message from which it has to wait for its turn."""
_A_ROUND = 16 * 1024
"""Bytes that all write in one round of the loop that is not slow."""
_USUAL = 0.001
"""Seconds that a round takes at most if it is not slow; after slower ones more is written, so that all together can
always write 16 MB a second."""
_MOST = 8
"""How many times as much at most."""
_A_GO = 8 * 1024
"""Bytes that one of them writes before the next pod has its turn."""
_LEAST = 256
"""Bytes that a go counts at least: to find that nothing can be written takes time too."""


class ScheduledWrite(Protocol):
    """What has something to write."""

    def proceed(self, most: int) -> tuple[int, bool]:
        """Write at most so many bytes now: how many were, and whether it wants another go.

        One that can write nothing now wants none, and asks again when it can.
        """
        ...


class WriteScheduler:
    """The line in front of the writers."""

    def __init__(self, a_round: int = _A_ROUND, a_go: int = _A_GO) -> None:
        self._a_round = a_round
        self._a_go = a_go
        self._lines: OrderedDict[Hashable, deque[ScheduledWrite]] = OrderedDict()
        self._coming = False
        self._began = 0.0
        """When the last round began, seconds of the loop's clock."""

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
