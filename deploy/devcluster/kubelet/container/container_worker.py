"""Runs one container of a pod: starts, probes, restarts and stops it.

`run` is the lifecycle. `view` is the current state; each change calls `ContainerHost.changed`. `ContainerHost.launch`
provides what the container needs of its pod: environment, mounts, sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Literal, Protocol

import msgspec

from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.kubelet.container import probe_check, probe_schedule
from deploy.devcluster.kubelet.container.environment import UnresolvedError
from deploy.devcluster.kubelet.container.restart_backoff import RestartBackoff
from deploy.devcluster.kubelet.container.state import (
    ContainerRunning,
    ContainerState,
    ContainerTerminated,
    ContainerWaiting,
    Role,
)
from deploy.devcluster.runtime import Process

_log = logging.getLogger(__name__)

_CRASHING = "CrashLoopBackOff"
_UNREADY_EVENT = 5
"""Consecutive failures of a readiness probe that never succeeded, before an Event is recorded."""


class ContainerHost(Protocol):
    """The interface of the pod for its containers."""

    async def launch(self, container: Obj) -> Process:
        """Start the container's process. Raises `UnresolvedError` or `OSError` if it cannot be started."""
        ...

    async def execute(self, container: Obj, argv: Sequence[str]) -> tuple[int, str]:
        """Run a command in the container. Returns exit code and output."""
        ...

    async def check(self, container: Obj, probe: Obj) -> probe_check.ProbeResult:
        """Run a probe once."""
        ...

    def changed(self) -> None:
        """Notify the pod that the state changed."""
        ...

    def record(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Record an Event about the pod."""
        ...


class ContainerWorker:
    """Runs one container."""

    def __init__(
        self,
        spec: Obj,
        role: Role,
        host: ContainerHost,
        *,
        restart: str,
        grace: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name: str = spec["name"]
        self.started = asyncio.Event()
        """Set while the container runs and its startup probe (if any) has succeeded."""
        self.hooked = asyncio.Event()
        """Set once the postStart hook (if any) has ended, or the container has ended or failed to start."""
        self._spec = spec
        self._host = host
        self._restart = "Always" if role == "sidecar" else restart
        self._grace = grace
        self._now = now
        self._restarts = RestartBackoff()
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._kick = asyncio.Event()
        self._view = ContainerState(spec=spec, role=role, state=ContainerWaiting("PodInitializing"))
        self._doom = ""
        self._unready = 0
        self._stop: asyncio.Task[None] | None = None

    @property
    def view(self) -> ContainerState:
        """The current state."""
        return self._view

    def wait_for(self, waiting: ContainerWaiting) -> None:
        """Set the waiting reason of a container that was never started."""
        if isinstance(self._view.state, ContainerWaiting) and not self._view.restarts:
            self._set(state=waiting)

    def kick(self) -> None:
        """Retry a failed start now, because a missing object may exist."""
        state = self._view.state
        if isinstance(state, ContainerWaiting) and state.reason != _CRASHING:
            self._kick.set()

    async def run(self) -> int:
        """Run until the container has ended for good. Returns the last exit code, -1 if it never ran."""
        code = -1
        while not self._stopping.is_set():
            began = self._now()
            try:
                process = await self._host.launch(self._spec)
            except UnresolvedError as error:
                self._set(state=ContainerWaiting(error.reason, error.sentence))
                self._host.record("Warning", "Failed", f"Error: {error.sentence}")
            except OSError as error:
                code = 127
                self._set(
                    state=ContainerTerminated(code, "StartError", began, began, f"{self._command()}: {error.strerror}")
                )
                self._host.record("Warning", "Failed", f"Error: {self._command()}: {error.strerror}")
            else:
                code = await self._live(process)
            self.hooked.set()
            if self._is_done():
                break
            await self._pause(self._now() - began)
        self._set(finished=True)
        self.hooked.set()
        return code

    async def stop(self, grace: float) -> None:
        """Stop for good: preStop hook, SIGTERM, and SIGKILL after `grace` seconds."""
        self._stopping.set()
        self._kick.set()
        if self._process is not None:
            await self._end(self._process, grace)

    def kill(self) -> None:
        """Stop for good with SIGKILL."""
        self._stopping.set()
        self._kick.set()
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    async def _live(self, process: Process) -> int:
        began = self._now()
        self._process, self._doom = process, ""
        self._set(state=ContainerRunning(began))
        if self._stopping.is_set():  # `stop` was called during the start
            process.signal(signal.SIGKILL)
        care = asyncio.create_task(self._care(process), name=f"probes of {self.name}")
        care.add_done_callback(complain)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.signal(signal.SIGKILL)
            raise
        finally:
            self._process = None
            care.cancel()
            if self._stop is not None:
                self._stop.cancel()
                self._stop = None
            await asyncio.gather(care, return_exceptions=True)
        self.started.clear()
        reason = "Completed" if code == 0 else "Error"
        ended = ContainerTerminated(code, reason, began, self._now(), self._doom)
        self._set(state=ended, started=False, ready=False)
        return code

    def _is_done(self) -> bool:
        if self._stopping.is_set():
            return True
        state = self._view.state
        if not isinstance(state, ContainerTerminated) or self._restart == "Always":
            # An init container is done once it has succeeded, also with restartPolicy Always.
            return self._view.role == "init" and isinstance(state, ContainerTerminated) and state.exit_code == 0
        return self._restart == "Never" or state.exit_code == 0

    async def _pause(self, ran_for: float) -> None:
        delay = self._restarts.next(ran_for)
        state = self._view.state
        if isinstance(state, ContainerTerminated):
            self._set(last=state, restarts=self._view.restarts + 1)
            if delay:
                reported = f"back-off {delay:g}s restarting failed container={self.name}"
                self._set(state=ContainerWaiting(_CRASHING, reported))
                self._host.record("Warning", "BackOff", f"Back-off restarting failed container {self.name}")
        else:
            delay = max(delay, 0.5)
        if delay:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._kick.wait()
        self._kick.clear()

    async def _care(self, process: Process) -> None:
        """Run hook and probes of a running process, in a task that is cancelled when the process ends."""
        well = await self._after_start(process)
        self.hooked.set()
        if not well:
            return
        startup: Obj | None = self._spec.get("startupProbe")
        if startup is not None:
            outcome = await probe_schedule.until_started(
                startup, self._checked(startup), sleep=asyncio.sleep, clock=time.monotonic
            )
            if not outcome.success:
                self._condemn(process, "Startup", outcome.message)
                return
        self.started.set()
        readiness: Obj | None = self._spec.get("readinessProbe")
        self._set(started=True, ready=readiness is None)
        watchers: list[Coroutine[Any, Any, None]] = []
        if readiness is not None:
            watchers.append(probe_schedule.watch_readiness(readiness, self._checked(readiness), self._on_readiness))
        if self._spec.get("livenessProbe") is not None:
            watchers.append(self._watch_liveness(process, self._spec["livenessProbe"]))
        await asyncio.gather(*watchers)

    def _checked(self, probe: Obj) -> Callable[[], Awaitable[probe_check.ProbeResult]]:
        return lambda: self._host.check(self._spec, probe)

    def _on_readiness(self, ready: bool, message: str) -> None:  # noqa: FBT001 - a callback, called by position
        self._unready = 0 if ready else self._unready + 1
        # Probes are frequent during the start: the first failures are expected.
        if not ready and (self._view.ready or self._unready == _UNREADY_EVENT):
            self._host.record("Warning", "Unhealthy", f"Readiness probe failed: {message}")
        self._set(ready=ready)

    async def _watch_liveness(self, process: Process, probe: Obj) -> None:
        outcome = await probe_schedule.until_dead(probe, self._checked(probe))
        if not self._stopping.is_set():
            self._condemn(process, "Liveness", outcome.message, probe.get("terminationGracePeriodSeconds"))

    def _condemn(self, process: Process, probe: str, message: str, grace: float | None = None) -> None:
        """Stop the process after a failed probe; it is restarted as after any other end."""
        self._doom = f"{probe} probe failed: {message}"
        self._host.record("Warning", "Unhealthy", self._doom)
        self._host.record("Normal", "Killing", f"Container {self.name} failed {probe.lower()} probe, will be restarted")
        # In a task of its own: the current task is cancelled as soon as the process ends.
        self._stop = asyncio.create_task(self._end(process, self._grace if grace is None else grace))
        self._stop.add_done_callback(complain)

    async def _after_start(self, process: Process) -> bool:
        hook = (self._spec.get("lifecycle") or {}).get("postStart")
        if hook is None:
            return True
        failure = await self._hook(hook)
        if failure:
            self._doom = f"PostStartHook failed: {failure}"
            self._host.record("Warning", "FailedPostStartHook", self._doom)
            self._stop = asyncio.create_task(self._end(process, self._grace))
            self._stop.add_done_callback(complain)
        return not failure

    async def _hook(self, hook: Obj) -> str:
        """Run a lifecycle hook. Returns the reason of a failure, or an empty string."""
        if "sleep" in hook:
            await asyncio.sleep(hook["sleep"]["seconds"])
            return ""
        if "exec" in hook:
            try:
                code, printed = await self._host.execute(self._spec, hook["exec"]["command"])
            except (OSError, UnresolvedError) as error:
                return str(error)
            return f"exit code {code}: {printed}" if code else ""
        outcome = await self._host.check(self._spec, hook | {"timeoutSeconds": 30})
        return "" if outcome.success else outcome.message

    async def _end(self, process: Process, grace: float) -> None:
        """Stop a process. As on Kubernetes, the preStop hook counts towards the grace period."""
        deadline = time.monotonic() + grace
        hook = (self._spec.get("lifecycle") or {}).get("preStop")
        if hook is not None and grace > 0:
            await self._before_stop(hook, process, grace)
        process.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await process.wait()
        except TimeoutError:
            process.signal(signal.SIGKILL)
            await process.wait()

    async def _before_stop(self, hook: Obj, process: Process, grace: float) -> None:
        """Run the preStop hook until it ends, the process ends, or the grace period is over."""
        hooking = asyncio.create_task(self._hook(hook))
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({hooking, ended}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            hooking.cancel()
            answers = await asyncio.gather(hooking, ended, return_exceptions=True)
        if isinstance(answers[0], str) and answers[0]:
            self._host.record("Warning", "FailedPreStopHook", f"PreStopHook failed: {answers[0]}")

    def _command(self) -> str:
        return (self._spec.get("command") or ["?"])[0]

    def _set(self, **changes: Any) -> None:
        view = msgspec.structs.replace(self._view, **changes)
        if view != self._view:
            self._view = view
            self._host.changed()


def complain(task: asyncio.Task[Any]) -> None:
    """Log the exception of a task whose result is not awaited."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("%s ended by a bug", task.get_name(), exc_info=error)
