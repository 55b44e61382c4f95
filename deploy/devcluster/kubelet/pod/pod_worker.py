"""Runs one pod: volumes, sandbox, containers in order, and deletion.

There is one worker task per pod UID. `update` passes new versions of the object, `vanish` its removal. The worker
reports through the pod's status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import KubeApiError, Obj
from deploy.devcluster.kubelet.container.container_worker import ContainerWorker, complain
from deploy.devcluster.kubelet.container.environment import Lookup, UnresolvedError
from deploy.devcluster.kubelet.container.state import ContainerRunning, ContainerWaiting, Role
from deploy.devcluster.kubelet.pod.pod_status import PodView
from deploy.devcluster.kubelet.pod.processes import NodeContext, PodProcesses
from deploy.devcluster.kubelet.pod.status_report import StatusReport
from deploy.devcluster.kubelet.pod.volumes import PodVolumes

_log = logging.getLogger(__name__)
_SIDECAR_LEAST_GRACE = 2.0
_RETRY_VOLUMES = 1.0
_RETRY_DELETION = 0.5
_DEFAULT_GRACE = 30


class PodWorker:
    """Runs one pod."""

    def __init__(
        self, pod: Obj, node: NodeContext, volumes: PodVolumes, lookup: Lookup, *, now: Callable[[], float] = time.time
    ) -> None:
        self._pod = pod
        self._node = node
        self._volumes = volumes
        self._now = now
        self._started_at = now()
        self._failure = ""
        self._leaving = asyncio.Event()
        self._vanished = False
        self._refresh = asyncio.Event()
        self._report = StatusReport(node.cluster, lambda: self._pod, self._view, now=now)
        self.processes = PodProcesses(lambda: self._pod, node, volumes, lookup, changed=self._report.touch)
        """The pod's sandbox and its processes."""
        self._placed = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[int]] = {}
        spec: Obj = pod["spec"]
        self._init = [self._container(each, _init_role(each)) for each in spec.get("initContainers") or []]
        self._main = [self._container(each, "main") for each in spec["containers"]]
        if object_fields.is_terminating(pod):
            self._leaving.set()

    def _container(self, spec: Obj, role: Role) -> ContainerWorker:
        return ContainerWorker(
            spec,
            role,
            self.processes,
            restart=self._pod["spec"].get("restartPolicy") or "Always",
            grace=self._grace(),
            now=self._now,
        )

    def _grace(self) -> float:
        asked: int | None = self._pod["metadata"].get("deletionGracePeriodSeconds")
        if asked is None:
            asked = self._pod["spec"].get("terminationGracePeriodSeconds")
        return _DEFAULT_GRACE if asked is None else asked

    @property
    def uid(self) -> str:
        """UID of the pod."""
        return object_fields.uid(self._pod)

    @property
    def namespace(self) -> str:
        """Namespace of the pod."""
        return object_fields.namespace(self._pod)

    def update(self, pod: Obj) -> None:
        """Take a newer version of the object."""
        relabelled = any(get(pod) != get(self._pod) for get in (object_fields.labels, object_fields.annotations))
        self._pod = pod
        if object_fields.is_terminating(pod):
            self._leaving.set()
        if relabelled:
            self._refresh.set()
        self._report.touch()

    def vanish(self) -> None:
        """The object was removed from the API: kill all containers."""
        self._vanished = True
        self._leaving.set()
        for container in [*self._init, *self._main]:
            container.kill()

    def configuration_changed(self, resource: str, name: str) -> None:
        """A ConfigMap, Secret or claim of the pod's namespace changed."""
        if (resource, name) in self._volumes.references:
            self._refresh.set()
        for container in [*self._init, *self._main]:
            container.kick()

    def has_ended(self, container: str) -> bool:
        """True if this container will write no more log lines."""
        task = self._tasks.get(container)
        return self._leaving.is_set() if task is None else task.done()

    async def run(self) -> None:
        """Run the pod until its object is removed from the API."""
        helpers = [asyncio.create_task(self._report.run()), asyncio.create_task(self._keep_volumes())]
        life = asyncio.create_task(self._live())
        leaving = asyncio.create_task(self._wait_to_leave())
        try:
            await asyncio.wait({life, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                life.result()
                await self.processes.release()
                await leaving
            else:
                await self._leave(life)
            await self._bury(helpers)
        finally:
            tasks: list[asyncio.Task[Any]] = [*helpers, life, leaving, *self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.processes.release()
            self._volumes.remove()

    async def _wait_to_leave(self) -> None:
        await self._leaving.wait()

    async def _live(self) -> None:
        """Start the containers in order, and wait until all have ended for good."""
        self._report.touch()
        await self._make_volumes()
        await self.processes.make_sandbox()
        self._placed.set()
        self._report.touch()
        for container in self._init:
            task = self._start(container)
            if container.view.role == "sidecar":
                await container.started.wait()
                continue
            await asyncio.wait({task})
            if task.result() != 0:
                self._failure = f"init container {container.name} failed"
                break
        else:
            # Not `gather`: cancelling this task at deletion must not cancel the containers.
            tasks: list[asyncio.Task[int]] = []
            for container in self._main:
                tasks.append(self._start(container))
                # In order; as on Kubernetes, a postStart hook delays the following containers.
                await container.hooked.wait()
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in ended:
                task.result()
        await self._stop_sidecars(self._grace())
        self._report.touch()

    def _start(self, container: ContainerWorker) -> asyncio.Task[int]:
        task = asyncio.create_task(container.run(), name=f"{object_fields.name(self._pod)}/{container.name}")
        task.add_done_callback(complain)
        self._tasks[container.name] = task
        return task

    async def _make_volumes(self) -> None:
        """Write the volumes; retry until all objects that they refer to exist."""
        reported = ""
        while True:
            self._refresh.clear()
            try:
                await self._volumes.write(self._pod)
            except (UnresolvedError, KubeApiError, OSError) as error:
                if str(error) != reported:
                    reported = str(error)
                    self.processes.record("Warning", "FailedMount", reported)
                for container in self._main:
                    container.wait_for(ContainerWaiting("ContainerCreating", reported))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY_VOLUMES):
                        await self._refresh.wait()
            else:
                for container in [*self._init, *self._main]:
                    container.wait_for(ContainerWaiting("PodInitializing" if self._init else "ContainerCreating"))
                self._refresh.set()
                return

    async def _keep_volumes(self) -> None:
        """Rewrite volumes when their objects change, and renew tokens before they expire."""
        await self._placed.wait()
        while True:
            self._refresh.clear()
            pause: float | None = _RETRY_VOLUMES
            try:
                due = await self._volumes.write(self._pod)
                pause = None if due is None else max(_RETRY_VOLUMES, due - self._now())
            except UnresolvedError as error:
                # A source was deleted: as on Kubernetes the files stay until it exists again.
                _log.debug("volumes of %s/%s: %s", *object_fields.key(self._pod), error)
                pause = None
            except (KubeApiError, OSError) as error:
                _log.warning("volumes of %s/%s: %s", *object_fields.key(self._pod), error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._refresh.wait()

    async def _leave(self, life: asyncio.Task[None]) -> None:
        """Stop the containers, then the sidecars in reverse order, within the grace period (KEP-753)."""
        deadline = time.monotonic() + self._grace()
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        ordinary = [each for each in (*self._init, *self._main) if each.view.role != "sidecar"]
        await asyncio.gather(*(self._finish(each, self._grace()) for each in ordinary))
        await self._stop_sidecars(max(deadline - time.monotonic(), min(_SIDECAR_LEAST_GRACE, self._grace())))

    async def _stop_sidecars(self, grace: float) -> None:
        deadline = time.monotonic() + grace
        for container in reversed([each for each in self._init if each.view.role == "sidecar"]):
            await self._finish(container, max(0.0, deadline - time.monotonic()))

    async def _finish(self, container: ContainerWorker, grace: float) -> None:
        task = self._tasks.get(container.name)
        if task is None:
            return
        await container.stop(grace)
        await asyncio.wait({task})

    async def halt(self, grace: float) -> None:
        """Stop all processes without changing the object; called when the node stops."""
        ordinary = [each for each in (*self._init, *self._main) if each.view.role != "sidecar"]
        await asyncio.gather(*(self._finish(each, grace) for each in ordinary))
        await self._stop_sidecars(grace)

    async def _bury(self, helpers: Sequence[asyncio.Task[None]]) -> None:
        """Write the final status, then delete the object."""
        for task in helpers:
            task.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        await self.processes.release()
        if self._vanished:
            return
        with contextlib.suppress(KubeApiError):  # only the deletion below is required, and it is retried
            await self._report.write()
        while not self._vanished:
            try:
                found = await self._node.cluster.get("pods", *object_fields.key(self._pod))
                if found is not None and object_fields.uid(found) == self.uid:
                    await self._node.cluster.delete("pods", *object_fields.key(self._pod), grace_seconds=0)
            except KubeApiError as error:
                _log.warning("deleting %s/%s: %s", *object_fields.key(self._pod), error)
                await asyncio.sleep(_RETRY_DELETION)
            else:
                return

    def is_running(self, container: str) -> bool:
        """True if this container's process runs."""
        return any(
            each.name == container and isinstance(each.view.state, ContainerRunning)
            for each in (*self._init, *self._main)
        )

    def _view(self) -> PodView:
        return PodView(
            init=[each.view for each in self._init],
            main=[each.view for each in self._main],
            ip=self.processes.ip,
            host_ip=self._node.runtime.node_ip,
            started_at=self._started_at,
            failure=self._failure,
        )


def _init_role(spec: Obj) -> Role:
    return "sidecar" if spec.get("restartPolicy") == "Always" else "init"
