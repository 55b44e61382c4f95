"""A work queue of keys: runs at most one reconcile per key at a time; changes meanwhile cause one more.

Controllers are level-triggered: `reconcile(key)` reads the current state and takes one step. A failure is logged (once
per message) and retried with back-off. New events do not shorten the back-off, because the failing step itself may have
caused them. A conflict (409) is retried without a log line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from deploy.devcluster.cluster_api import KubeApiError
from deploy.devcluster.object_fields import Key
from shared.timing.backoff import Backoff, Delays

_log = logging.getLogger(__name__)

Reconcile = Callable[[Key], Awaitable[float | None]]
"""One step for one key. Returns the seconds until the next step without an event, or None."""

_BACKOFF = Backoff(first=0.02, longest=1.0)


class Reconciler:
    """Runs a controller's `reconcile` for the keys that are enqueued."""

    def __init__(self, name: str, reconcile: Reconcile) -> None:
        self._name = name
        self._reconcile = reconcile
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, Delays] = {}
        self._logged: dict[Key, str] = {}
        self._closed = False

    def enqueue(self, key: Key) -> None:
        """Reconcile this key soon."""
        if self._closed:
            return
        if key in self._running:
            self._again.add(key)
            return
        if key in self._failures and key in self._timers:
            return
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        self._running[key] = asyncio.create_task(self._work(key), name=f"{self._name} {key[0]}/{key[1]}")

    async def close(self) -> None:
        """Cancel all reconciles and timers."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, key: Key) -> None:
        try:
            while True:
                self._again.discard(key)
                pause = await self._step(key)
                if key not in self._again:
                    break
                if key in self._failures and pause:
                    # The back-off also applies to a failing key with frequent events.
                    await asyncio.sleep(pause)
                    pause = None
        finally:
            self._running.pop(key, None)
        if pause is not None and not self._closed:
            self._timers[key] = asyncio.get_running_loop().call_later(pause, self._wake, key)

    def _wake(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.enqueue(key)

    async def _step(self, key: Key) -> float | None:
        try:
            pause = await self._reconcile(key)
        except KubeApiError as error:
            if error.status != 409 and self._logged.get(key) != str(error):
                self._logged[key] = str(error)
                _log.warning("%s %s/%s: %s", self._name, *key, error)
        except Exception:  # noqa: BLE001 - a bug in one controller must not end the cluster; it is logged and retried
            _log.exception("%s %s/%s failed", self._name, *key)
        else:
            self._failures.pop(key, None)
            self._logged.pop(key, None)
            return pause
        return self._failures.setdefault(key, _BACKOFF.delays()).next()
