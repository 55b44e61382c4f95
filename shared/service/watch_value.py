"""A value of which only the newest counts: a trust bundle, a certificate, a setting.

Queues would make a slow reader work through history that no longer matters; here it skips to the present. For one
event loop: `set` is called from it, and readers are its tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """Holds the newest value and wakes the tasks that wait for it."""

    def __init__(self) -> None:
        self._value: T | None = None
        self._changed = asyncio.Event()

    @property
    def value(self) -> T | None:
        """The newest value; None before the first."""
        return self._value

    def set(self, value: T) -> None:
        """Replace the value; an equal one wakes no task."""
        if self._value == value:
            return
        self._value = value
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait(self) -> T:
        """The newest value, as soon as there is one."""
        while self._value is None:
            await self._changed.wait()
        return self._value

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    async def changes(self) -> AsyncIterator[T]:
        """Yield the newest value now and after each change, for ever; values between are skipped."""
        while True:
            changed = self._changed
            if self._value is not None:
                yield self._value
            await changed.wait()
