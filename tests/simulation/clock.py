"""An event loop whose time is simulated: it jumps to the next timer, so an hour takes as long as what happens in it."""

from __future__ import annotations

import asyncio
from typing import Any

TURN = 1e-6
"""Least seconds of one turn of the loop: a wait below the resolution of the clock takes time too."""


TURNS = 3_000_000
"""Turns of the loop after which something goes round in circles: fifty times what a run takes."""


class NothingWillHappenError(RuntimeError):
    """A deadlock: every task waits, and no timer is set."""


class TooBusyError(RuntimeError):
    """Something goes round in circles."""


class _Selector:
    """Where a loop would wait for sockets: here nothing comes from outside, so waiting is skipping."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise NothingWillHappenError("everything waits for ever")
        self._turns += 1
        if self._turns > TURNS:
            raise TooBusyError(f"something goes round in circles at {self._loop.time():.3f} s")
        self._loop.skip(max(timeout, TURN))
        return []

    def close(self) -> None:
        return


class SimulatedLoop(asyncio.BaseEventLoop):
    """A loop without sockets, threads and real time."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = _Selector(self)

    def time(self) -> float:
        """Simulated seconds."""
        return self._now

    def skip(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds

    def _process_events(self, event_list: list[Any]) -> None:
        del event_list

    def _write_to_self(self) -> None:
        return
