"""Slots for expensive work, distributed fairly over sources and namespaces.

A source is the address of a client. The API server is one source and sends reviews of many namespaces. A free slot goes
to the source that holds the fewest, and within it to the namespaces in rotation. So a flood from one source delays any
other source by one piece of work, and a flood of one namespace any other namespace likewise. The number of waiting
tasks and their time are bounded; a task without a place to wait is refused at once.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from shared.errors import MeshlogError


class SlotLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of slots and of tasks that may wait."""

    slots: int = 1
    slots_of_source: int = 1
    waiting: int = 256
    """Tasks that wait, of all sources."""
    waiting_of_source: int = 64
    waiting_of_namespace: int = 16
    """Tasks that wait, of one namespace of one source."""
    seconds: float = 5.0
    """Seconds after which a waiting task is refused."""


class BusyError(MeshlogError):
    """There is no slot, or no place to wait for one; the client may retry."""


_Waiting = deque[asyncio.Future[None]]


class FairSlots:
    """The slots of one kind of work."""

    def __init__(self, caps: SlotLimits) -> None:
        self._caps = caps
        self._held: Counter[str] = Counter()
        self._queues: OrderedDict[str, OrderedDict[str, _Waiting]] = OrderedDict()
        self._waiting: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """Slots in use."""
        return self._held.total()

    @property
    def waiting(self) -> int:
        """Tasks that wait."""
        return self._waiting.total()

    @asynccontextmanager
    async def turn(self, source: str, namespace: str = "") -> AsyncGenerator[None]:
        """Hold a slot. Raises `BusyError` if there is no place to wait, or no slot in time."""
        await self._take(source, namespace)
        try:
            yield
        finally:
            self._release(source)

    async def _take(self, source: str, namespace: str) -> None:
        if not self.waiting and self._free_for(source):
            self._held[source] += 1
            return
        self._admit(source, namespace)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(source, OrderedDict()).setdefault(namespace, deque()).append(turn)
        self._waiting[source] += 1
        self._hand_out()
        try:
            async with asyncio.timeout(self._caps.seconds):
                await turn
        except TimeoutError as error:
            self._give_up(source, namespace, turn)
            sentence = f"was not reviewed within {self._caps.seconds:g} s; try again in a moment"
            raise BusyError("inject/busy", sentence) from error
        except asyncio.CancelledError:
            self._give_up(source, namespace, turn)
            raise

    def _admit(self, source: str, namespace: str) -> None:
        """Make room for one more waiting task. Raises `BusyError` if there is none."""
        caps = self._caps
        queue = self._queues.get(source, {}).get(namespace, ())
        if self._waiting[source] >= caps.waiting_of_source or len(queue) >= caps.waiting_of_namespace:
            raise _busy()
        if self.waiting < caps.waiting:
            return
        largest, most = max(self._waiting.items(), key=lambda one: one[1])
        if most <= self._waiting[source] + 1:
            raise _busy()
        name, crowd = max(self._queues[largest].items(), key=lambda one: len(one[1]))
        displaced = crowd[-1]
        self._forget(largest, name, displaced)
        displaced.set_exception(_busy())

    def _give_up(self, source: str, namespace: str, turn: asyncio.Future[None]) -> None:
        if turn.cancelled():
            if turn in self._queues.get(source, {}).get(namespace, ()):
                self._forget(source, namespace, turn)
        elif turn.exception() is None:
            # The slot was granted at the moment of the timeout or cancellation.
            self._release(source)

    def _release(self, source: str) -> None:
        self._held[source] -= 1
        if not self._held[source]:
            del self._held[source]
        self._hand_out()

    def _free_for(self, source: str) -> bool:
        return self.held < self._caps.slots and self._held[source] < self._caps.slots_of_source

    def _hand_out(self) -> None:
        while True:
            sources = [source for source in self._queues if self._free_for(source)]
            if not sources:
                return
            source = min(sources, key=self._held.__getitem__)
            queues = self._queues[source]
            namespace, queue = next(iter(queues.items()))
            turn = queue[0]
            self._forget(source, namespace, turn)
            if namespace in queues:
                queues.move_to_end(namespace)
            if source in self._queues:
                self._queues.move_to_end(source)
            # A task that timed out stays in the queue until it runs again.
            if not turn.done():
                self._held[source] += 1
                turn.set_result(None)

    def _forget(self, source: str, namespace: str, turn: asyncio.Future[None]) -> None:
        """Remove a task from its queue."""
        queues = self._queues[source]
        queues[namespace].remove(turn)
        if not queues[namespace]:
            del queues[namespace]
        if not queues:
            del self._queues[source]
        self._waiting[source] -= 1
        if not self._waiting[source]:
            del self._waiting[source]


def _busy() -> BusyError:
    return BusyError("inject/busy", "too many objects are being reviewed; try again in a moment")
