"""The shell of every service process: settings, logging, signals, health, supervision, exit code.

A service is `async def serve(context) -> None`; its `__main__.py` is no more than

    def main(argv: Sequence[str]) -> int:
        return process.main("ingestor", IngestorSettings, serve, argv)

which `meshlog run ingestor ARGS` calls. `serve` starts its parts with `context.spawn`, reports readiness with
`context.ready`, then waits for `context.stopping`, releases its resources and returns. A part that fails ends the
process with exit code 1 and one line with the reason: its supervisor restarts it, and the log has all state.

Exit codes: 0 ended by itself or gracefully by a signal; 1 failed; 2 bad input; 128 + n at once by a second signal n.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from shared.errors import BadInputError, MeshlogError
from shared.eventlog.foreign import ForeignRecords
from shared.io.visible_text import visible
from shared.service import settings as settings_module
from shared.service.settings import CommonSettings
from shared.telemetry import logging as log_lines
from shared.telemetry import traces
from shared.telemetry.http import HealthServer, Readiness
from shared.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2

C = TypeVar("C", bound=CommonSettings)

_PR_SET_PDEATHSIG = 1


class Context(Generic[C]):
    """What the shell hands to a service."""

    def __init__(self, service: str, settings: C) -> None:
        self.service = service
        self.settings = settings
        self.instance = settings.instance or socket.gethostname()
        """Unique name of this process in the log."""
        self.metrics = Metrics()
        self.readiness = Readiness()
        self.metrics.gauge(
            "meshlog_ready",
            "Whether this process may be sent work; /readyz says why not.",
            lambda: {(("service", service),): float(self.readiness.ready)},
        )
        self.stopping = asyncio.Event()
        """Set at SIGTERM or SIGINT: finish what is in hand and return."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def ready(self, name: str, ready: bool, why: str = "") -> None:  # noqa: FBT001 (`ready("log", True)` reads well)
        """Report whether the condition `name` for serving holds, and if not, why; `/readyz` needs all of them."""
        self.readiness.set(name, ready=ready, why=why)

    def remark(self, name: str, text: str) -> None:
        """Show a remark to people in `/readyz`, ready or not; an empty text removes it."""
        self.readiness.remark(name, text)

    def count_foreign(self, foreign: ForeignRecords) -> None:
        """Show in `/metrics` the foreign records that this process read."""
        counter = self.metrics.counter(
            "meshlog_log_foreign_records_total",
            "Records passed over because no writer of their stream can have written them, by stream.",
        )
        foreign.counted = lambda stream: counter.add(stream=stream)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a part of the service beside it. Its failure is the process's; returning is fine."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def fail(self, error: BaseException) -> None:
        """End the process for this reason, exit code 1 (2 for `BadInputError`)."""
        if not self._failure.done():
            self._failure.set_result(error)

    async def failed(self) -> BaseException:
        """Wait for the first failure of a part."""
        return await asyncio.shield(self._failure)

    async def cancel_parts(self) -> None:
        """End everything that was spawned and is still running.

        Asks again until it has ended: `asyncio.wait_for` of Python 3.11 loses a cancellation now and then.
        """
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=0.5)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            error.add_note(f"in {task.get_name()}")
            self.fail(error)


Service = Callable[[Context[C]], Awaitable[None]]


def main(
    name: str,
    settings_type: type[C],
    service: Service[C],
    argv: Sequence[str],
    environ: Mapping[str, str] | None = None,
) -> int:
    """Read the settings and run a service to its end; the result is the exit code."""
    try:
        settings = settings_module.load(
            settings_type, argv, os.environ if environ is None else environ, command=f"meshlog run {name}"
        )
        log_lines.levels_of(settings.log_levels)
    except BadInputError as error:
        print(visible(f"meshlog run {name}: {error}"), file=sys.stderr)  # noqa: T201 (logging is not set up yet)
        return EXIT_BAD_INPUT
    return run(service, settings, name=name)


def run(service: Service[C], settings: C, *, name: str) -> int:
    """Run a service to its end in an event loop of its own; the result is the exit code."""
    instance = settings.instance or socket.gethostname()
    log_lines.configure(
        service=name,
        instance=instance,
        level=settings.log_level,
        levels=log_lines.levels_of(settings.log_levels),
        form=settings.log_format,
    )
    if settings.die_with_parent:
        _die_with_parent()
    with contextlib.ExitStack() as stack:
        if settings.trace_file:
            try:
                stack.enter_context(
                    traces.exporting_to_file(Path(settings.trace_file), service=name, instance=instance)
                )
            except OSError as error:
                _log.error("the trace file cannot be written: %s", error)
                return EXIT_BAD_INPUT
        watchdog = _Watchdog(after=2 * settings.stop_within + 2)
        stack.callback(watchdog.disarm)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_supervise(service, settings, name, watchdog))


class _Watchdog:
    """Ends the process when its stop hangs, whatever the event loop does."""

    def __init__(self, *, after: float) -> None:
        self._timer = threading.Timer(after, self._bite)
        self._timer.daemon = True
        self._armed = False

    def arm(self) -> None:
        """The stop has begun."""
        if not self._armed:
            self._armed = True
            self._timer.start()

    def disarm(self) -> None:
        """The stop is over."""
        self._timer.cancel()

    @staticmethod
    def _bite() -> None:
        print("the stop hangs; ending at once", file=sys.stderr, flush=True)  # noqa: T201 (logging may be what hangs)
        os._exit(EXIT_FAILURE)


async def _supervise(service: Service[C], settings: C, name: str, watchdog: _Watchdog) -> int:
    context = Context(name, settings)
    server = HealthServer(readiness=context.readiness, metrics=context.metrics)
    _handle_signals(context, watchdog)
    failure: BaseException | None = None
    try:
        if settings.http_port:
            await server.start(settings.http_host, settings.http_port)
        _log.info("started", extra={"pid": os.getpid()})
        failure = await _serve(service, context)
    except MeshlogError as error:
        failure = error
    finally:
        watchdog.arm()
        context.readiness.set("running", ready=False, why="the process is stopping")
        await context.cancel_parts()
        await server.stop()
        context.metrics.close()
    if failure is None:
        _log.info("stopped")
        return EXIT_OK
    expected = isinstance(failure, MeshlogError)
    _log.error("ended: %s", failure, exc_info=failure, extra={"code": failure.code} if expected else {})
    return EXIT_BAD_INPUT if isinstance(failure, BadInputError) else EXIT_FAILURE


async def _serve(service: Service[C], context: Context[C]) -> BaseException | None:
    """Run the service until it returns, a part fails, or a stop takes too long; the failure, if any."""
    serving = asyncio.ensure_future(service(context))
    failing = asyncio.ensure_future(context.failed())
    stopping = asyncio.ensure_future(context.stopping.wait())
    try:
        await asyncio.wait({serving, failing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done() and not failing.done():
            context.readiness.set("running", ready=False, why="the process is stopping")
            limit = context.settings.stop_within
            await asyncio.wait({serving, failing}, return_when=asyncio.FIRST_COMPLETED, timeout=limit)
            if not serving.done() and not failing.done():
                _log.warning("the stop took longer than %g s; letting go", limit)
        if not serving.done():
            serving.cancel()
            await asyncio.wait({serving}, timeout=context.settings.stop_within)
    finally:
        failing.cancel()
        stopping.cancel()
        serving.cancel()
    if failing.done() and not failing.cancelled():
        return failing.result()
    if serving.done() and not serving.cancelled():
        return serving.exception()
    return None


def _handle_signals(context: Context[C], watchdog: _Watchdog) -> None:
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if context.stopping.is_set():
            os._exit(128 + number)
        _log.info("stopping", extra={"signal": number.name})
        watchdog.arm()
        context.stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The factory of uvloop, where there is one: it takes a third off the cost of the log client."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent ends (prctl(2), PR_SET_PDEATHSIG)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
