"""A verb's `--timeout`, which bounds all of it: name resolution, connections, the first answer, each request, waiting.

There are three bounds, as no single one covers all. The event loop cancels tasks that await. A signal interrupts code
that does not await (a credential plugin of a kubeconfig, a long compile), a little later. Calls that need a thread,
such as a query to a silent name server, run in threads that the end of the command does not wait for.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from cli.terminal import output
from shared.errors import MeshlogError

TIMED_OUT = 124
GRACE = 0.5
"""Seconds beyond the timeout (no more than the timeout itself) in which a verb may print its partial result."""
_STUBBORN = 1.5
"""Further seconds until code that does not await is interrupted."""
_WAITED = "api/timeout"
"""Error code of a wait that timed out."""


class _OverdueError(KeyboardInterrupt):
    """Raised by a signal. An event loop lets only this kind of exception out of a task at once."""


class Deadline:
    """When a verb must have ended."""

    def __init__(self, seconds: float, lift: Callable[[], None] = lambda: None) -> None:
        self.seconds = seconds
        self._until = time.monotonic() + seconds
        self._lift = lift

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self._until - time.monotonic())

    def lift(self) -> None:
        """Remove the bound for the rest of the verb, which follows or runs something, as its help states."""
        self._lift()


class _Threads(ThreadPoolExecutor):
    """Runs each call in a thread that neither the end of the loop nor that of the process waits for."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `Executor.submit`."""
        future: Future[Any] = Future()

        def call() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 (the caller that awaits the future gets it)
                future.set_exception(error)
            else:
                future.set_result(result)

        if future.set_running_or_notify_cancel():
            threading.Thread(target=call, name="deadline", daemon=True).start()
        return future


def add_timeout(parser: argparse.ArgumentParser, default: float, what: str = "seconds that all of it may take") -> None:
    """Add `--timeout`; `what` describes what it bounds, if that is not the whole verb."""
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=default,
        metavar="T",
        help=f"{what} (default {default:g}); then exit code 124",
    )


def seconds(text: str) -> float:
    """Parse a time to wait; raises `argparse.ArgumentTypeError` for one that is impossible."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found <= 10_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write seconds, more than 0")
    return found


def run(
    work: Callable[[Deadline], Awaitable[int]],
    within: float,
    *,
    of: str = "the log",
    undone: str = "known",
    grace: float | None = None,
) -> int:
    """Run a verb to its end or the deadline; returns its exit code, or 124 with a sentence on standard error.

    For that sentence, `of` names the peers that it asks, and `undone` the state not reached in time. `grace`: seconds
    that `work` has beyond its time to print its partial result.
    """
    grace = min(GRACE, within) if grace is None else grace
    try:
        with _interrupted(within + grace + _STUBBORN) as calm, asyncio.Runner() as runner:
            runner.get_loop().set_default_executor(_Threads())
            return runner.run(_bounded(work, within, grace, calm))
    except (TimeoutError, _OverdueError):
        output.note(f"not {undone} after {within:g} s: {of} is slow, or does not answer; meshlog status")
        return TIMED_OUT
    except MeshlogError as error:
        if error.code != _WAITED:
            raise
        output.note(error)
        return TIMED_OUT


async def _bounded(
    work: Callable[[Deadline], Awaitable[int]], within: float, grace: float, calm: Callable[[], None]
) -> int:
    async with asyncio.timeout(within + grace) as limit:

        def lift() -> None:
            limit.reschedule(None)
            calm()

        return await work(Deadline(within, lift))


@contextlib.contextmanager
def _interrupted(after: float) -> Generator[Callable[[], None]]:
    """Interrupt the main thread `after` so many seconds, unless the block ends or calls the yielded function."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    main = threading.main_thread().ident or 0
    before = signal.signal(signal.SIGUSR2, _overdue)
    timer = threading.Timer(after, lambda: signal.pthread_kill(main, signal.SIGUSR2))
    timer.daemon = True
    timer.start()
    try:
        yield timer.cancel
    finally:
        try:
            timer.cancel()
            timer.join()  # a signal that arrives after the handler is removed would end the process
        finally:
            signal.signal(signal.SIGUSR2, before)


def _overdue(_number: int, _frame: object) -> None:
    raise _OverdueError
