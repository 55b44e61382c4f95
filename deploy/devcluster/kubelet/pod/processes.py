"""The processes of one pod: its sandbox, its containers' processes in it, and commands beside them.

`PodProcesses` is the `ContainerHost` of the pod's containers. It resolves a container's spec into environment, command
line and mounts at each start, so that a restart uses the current configuration.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Cluster, Obj
from deploy.devcluster.kubelet.container import environment, probe_check
from deploy.devcluster.kubelet.container.environment import Lookup, UnresolvedError
from deploy.devcluster.kubelet.container.log_files import PodLogs, size
from deploy.devcluster.kubelet.container.security_context import confinement_of
from deploy.devcluster.kubelet.event_recorder import EventRecorder
from deploy.devcluster.kubelet.pod.volumes import PodVolumes
from deploy.devcluster.runtime import Process, Runtime, Sandbox
from shared.errors import MeshlogError
from shared.service import inotify

_log = logging.getLogger(__name__)
_RETRY_SANDBOX = 1.0
_PRINTED_AT_MOST = 1024


class NodeContext(msgspec.Struct, frozen=True):
    """Dependencies that all pods of the node share."""

    cluster: Cluster
    runtime: Runtime
    logs: PodLogs
    events: EventRecorder
    http: probe_check.ProbeHttpClient
    variables: Mapping[str, str]
    """Base environment of every container."""


class PodProcesses:
    """Sandbox and processes of one pod; implements `ContainerHost`."""

    def __init__(
        self,
        pod: Callable[[], Obj],
        node: NodeContext,
        volumes: PodVolumes,
        lookup: Lookup,
        *,
        changed: Callable[[], None],
    ) -> None:
        self._pod = pod
        self._node = node
        self._volumes = volumes
        self._lookup = lookup
        self.changed = changed
        """Called by containers when their state changed."""
        self.ip = ""
        """Address of the pod; empty until the sandbox exists, then constant."""
        self._sandbox: Sandbox | None = None
        self._creation: asyncio.Task[Sandbox] | None = None
        self._running: dict[str, Process] = {}
        self._begins: dict[str, list[int]] = {}
        """Log offsets at which the last two runs of a container began."""

    async def make_sandbox(self) -> None:
        """Create the sandbox; failures are recorded as Events and retried.

        A partly created sandbox cannot be removed: if the caller is cancelled, `release` waits for its creation.
        """
        while True:
            pod = self._pod()
            self._creation = asyncio.create_task(
                self._node.runtime.create_sandbox(
                    uid=object_fields.uid(pod),
                    hostname=hostname_of(pod),
                    namespace=object_fields.namespace(pod),
                    host_network=bool(pod["spec"].get("hostNetwork")),
                )
            )
            try:
                sandbox = await asyncio.shield(self._creation)
            except (OSError, MeshlogError) as error:
                self._creation = None
                self.record("Warning", "FailedCreatePodSandBox", str(error))
                _log.warning("no sandbox for %s/%s: %s", *object_fields.key(pod), error)
                await asyncio.sleep(_RETRY_SANDBOX)
            else:
                self._sandbox, self.ip = sandbox, sandbox.ip
                return

    async def release(self) -> None:
        """Remove the sandbox with all its processes. Idempotent."""
        creation, self._creation, self._sandbox = self._creation, None, None
        if creation is None:
            return
        try:
            sandbox = await creation
        except (OSError, MeshlogError):
            return  # it was never created
        await sandbox.remove()

    def signal(self, container: str, number: int) -> None:
        """Signal a container's process."""
        self._running[container].signal(number)

    def previous_run(self, container: str) -> tuple[int, int] | None:
        """Log offsets of the previous run, or None if this is the first."""
        begins = self._begins.get(container, [])
        return (begins[-2], begins[-1]) if len(begins) > 1 else None

    async def start_beside(
        self, container: str, argv: Sequence[str], *, environment: Mapping[str, str], standard: tuple[int, int, int]
    ) -> Process:
        """Start a command in a running container, with additional variables. Raises `OSError`."""
        running = self._running.get(container)
        if self._sandbox is None or running is None:
            raise ProcessLookupError(f"container {container} does not run")
        spec: Obj = self._pod()["spec"]
        declared: list[Obj] = [*(spec.get("initContainers") or []), *spec["containers"]]
        own = next(each for each in declared if each["name"] == container)
        variables = {**self._variables(own), **environment}
        return await self._sandbox.execute(
            running,
            argv,
            environment=variables,
            standard=standard,
            working_directory=_directory(own),
        )

    async def launch(self, container: Obj) -> Process:
        """Start the container's process. Raises `UnresolvedError`, `OSError`."""
        variables = self._variables(container)
        argv = environment.command_line(container, variables)
        if self._sandbox is None:
            raise UnresolvedError("the pod has no sandbox any more")
        if Path(argv[0]).name == "envoy" and not inotify.room():
            # Envoy would end with an assertion that does not name the cause.
            raise UnresolvedError(
                f"this machine's user has all inotify instances that it may have: {inotify.RAISE}",
                reason="CreateContainerError",
            )
        name: str = container["name"]
        log = self._node.logs.path(self._pod(), name)
        self._begins[name] = [*self._begins.get(name, [])[-1:], size(log)]
        process = await self._sandbox.start(
            argv,
            environment=variables,
            mounts=self._volumes.mounts(container, variables),
            log=log,
            working_directory=_directory(container),
            confinement=confinement_of(container),
        )
        self._running[name] = process
        self.record("Normal", "Started", f"Started container {name}")
        return process

    async def execute(self, container: Obj, argv: Sequence[str]) -> tuple[int, str]:
        """Run a command in the container. Cancelling the call kills the command."""
        printed = os.memfd_create("printed")
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            standard = (nothing, printed, printed)
            process = await self.start_beside(container["name"], argv, environment={}, standard=standard)
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                process.signal(signal.SIGKILL)
                raise
            return code, os.pread(printed, _PRINTED_AT_MOST, 0).decode(errors="replace").strip()
        finally:
            os.close(printed)
            os.close(nothing)

    async def check(self, container: Obj, probe: Obj) -> probe_check.ProbeResult:
        """Run a probe once."""
        target = probe_check.ProbeTarget(
            address=self.ip,
            ports={port["name"]: port["containerPort"] for port in container.get("ports") or [] if "name" in port},
            execute=lambda argv: self.execute(container, argv),
        )
        return await probe_check.check(probe, target, self._node.http)

    def record(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Record an Event about the pod."""
        self._node.events.record(self._pod(), kind, reason, message)

    def _variables(self, container: Obj) -> dict[str, str]:
        found = self._pod()
        status: Obj = {"podIP": self.ip, "podIPs": [{"ip": self.ip}], "hostIP": self._node.runtime.node_ip}
        pod = found | {"status": (found.get("status") or {}) | status}
        given = {**self._node.variables, "HOSTNAME": hostname_of(found)}
        return environment.resolve(container, pod, given, self._lookup)


def hostname_of(pod: Obj) -> str:
    """`spec.hostname`, or the pod's name cut to 63 characters."""
    return pod["spec"].get("hostname") or object_fields.name(pod)[:63].rstrip("-.")


def _directory(container: Obj) -> Path | None:
    return Path(container["workingDir"]) if container.get("workingDir") else None
