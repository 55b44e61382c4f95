"""One life of a process: every step of every task of it is counted, so that it can die or freeze at any await.

A task of a process runs from one await to the next. Between two of them nothing else happens in the world, so these
are all the moments at which a crash can differ from another. `Life` sees each: a fuse burns down by one at each step,
and the process dies at the step at which it is burnt, in the middle of whatever that task and the others were about.
A frozen life takes no step at all while the world goes on (SIGSTOP, a paused machine, a long collection of garbage);
then it goes on with what it had in hand, late, its timers run out all at once.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import Any

_LIFE: ContextVar[Life | None] = ContextVar("life", default=None)


class Life:
    """Between a start and the crash or stop that ends it. `on_crash` ends it when the fuse is burnt."""

    def __init__(self, on_crash: Callable[[], None]) -> None:
        self.dead = False
        self.frozen = False
        self.steps = 0
        """Awaits that the tasks of this life have come back from."""
        self.fuse = 0
        """Steps left until it crashes; 0: no crash is drawn."""
        self._on_crash = on_crash
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thawed: list[asyncio.Future[None]] = []
        self._context = copy_context()
        self._context.run(_LIFE.set, self)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something as a part of this process; what it spawns in turn is a part of it too."""
        return asyncio.get_running_loop().create_task(work, context=self._context)

    def freeze(self) -> None:
        """From now on nothing of it goes on."""
        self.frozen = True

    def thaw(self) -> None:
        """Everything goes on where it was."""
        self.frozen = False
        thawed, self._thawed = self._thawed, []
        for future in thawed:
            if not future.done():
                future.set_result(None)

    def end(self) -> None:
        """It is dead: what it awaits now is the last thing that it did."""
        self.dead = True
        self.thaw()
        for task in list(self._tasks):
            task.cancel()

    def owns(self, task: asyncio.Task[Any]) -> None:
        """A task is a part of it."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def step(self) -> None:
        """A task comes back from an await."""
        self.steps += 1
        if self.fuse and not self.dead:
            self.fuse -= 1
            if not self.fuse:
                self._on_crash()

    def wait(self) -> asyncio.Future[None]:
        """Until it is thawed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._thawed.append(future)
        return future


def outside(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run work that outlives every process: messages in flight."""
    return asyncio.get_running_loop().create_task(work, context=Context())


def task_factory(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], *, context: Context | None = None
) -> asyncio.Task[Any]:
    """Tasks of a life are led step by step; all others are as ever."""
    life = context.get(_LIFE) if context is not None else _LIFE.get()
    if life is None:
        return asyncio.Task(work, loop=loop, context=context)
    task = asyncio.Task(_led(life, work), loop=loop, context=context)
    # Cancelled before its first step it would be left as it is.
    task.add_done_callback(lambda _: work.close())
    life.owns(task)
    return task


async def _led(life: Life, work: Coroutine[Any, Any, Any]) -> Any:
    return await _steps(life, work)


@types.coroutine
def _steps(life: Life, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            awaited = work.send(value) if error is None else work.throw(error)
        except StopIteration as stop:
            return stop.value
        value, error = None, None
        if life.dead:
            # Whatever it would still do on its way out, it does not come to.
            if asyncio.isfuture(awaited):
                awaited._asyncio_future_blocking = False
            error = asyncio.CancelledError()
            continue
        try:
            value = yield awaited
        except BaseException as raised:  # noqa: BLE001 (it belongs to the task that is led)
            error = raised
        if isinstance(error, GeneratorExit):
            work.close()
            raise error
        while life.frozen:
            # A timeout that runs out meanwhile, or a cancellation, is noticed when it goes on.
            try:
                yield from life.wait()
            except asyncio.CancelledError as raised:
                error = raised
        life.step()
        if life.dead and error is None:
            error = asyncio.CancelledError()
