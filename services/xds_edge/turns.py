"""Whose long response is written next: pods take turns, and no round of the event loop writes more than a little.

To write a response of 200 kB takes 10 ms. When many are due at once, because one pod opened many streams or because a
fleet came back, all else would wait for all of them. Short responses do not pass here.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable

LONG = 32 * 1024
"""Bytes of a response from which it has to wait for its turn."""
_A_ROUND = 64 * 1024
"""Bytes of long responses in one round of the loop."""


class Turns:
    """The line in front of the writers."""

    def __init__(self, a_round: int = _A_ROUND) -> None:
        self._a_round = a_round
        self._left = a_round
        self._lines: OrderedDict[Hashable, deque[tuple[asyncio.Future[None], int]]] = OrderedDict()
        self._renewing = False

    async def take(self, key: Hashable, size: int) -> None:
        """Wait until something of `size` bytes may be written for `key`."""
        if self._left > 0 and not self._lines:
            self._spend(size)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(key, deque()).append((turn, size))
        self._spend(0)
        await turn

    def _spend(self, size: int) -> None:
        self._left -= size
        if not self._renewing:
            self._renewing = True
            asyncio.get_running_loop().call_soon(self._renew)

    def _renew(self) -> None:
        """Begin a round."""
        self._renewing, self._left = False, self._a_round
        while self._left > 0 and self._lines:
            key, line = self._lines.popitem(last=False)
            turn, size = line.popleft()
            if line:
                self._lines[key] = line
            if not turn.done():
                turn.set_result(None)
                self._spend(size)
        if self._lines:
            self._spend(0)
