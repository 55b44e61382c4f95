"""The node agent: every pod of the cluster runs here, each in the care of its own worker.

There is one node and no scheduler: a pod is bound the moment it is seen. The agent lives on the cache's news, its
only timer bounds the size of logs.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Cluster, KubeApiError, Obj
from deploy.devcluster.kubelet.container import log_files as logs
from deploy.devcluster.kubelet.container import probe_check
from deploy.devcluster.kubelet.container.environment import Lookup
from deploy.devcluster.kubelet.event_recorder import EventRecorder
from deploy.devcluster.kubelet.pod.pod_worker import PodWorker
from deploy.devcluster.kubelet.pod.processes import NodeContext
from deploy.devcluster.kubelet.pod.volumes import PodVolumes, ServiceAccountTokens
from deploy.devcluster.kubelet.registration import node_object, node_status
from deploy.devcluster.object_cache import ObjectCache, ObjectChange
from deploy.devcluster.runtime import Process, Runtime
from shared.errors import BadInputError

_log = logging.getLogger(__name__)
_CLAIMS = "persistentvolumeclaims"
_BOUND_LOGS_EVERY = 30.0
_NOTE_LOGS_EVERY = 0.2
"""Seconds by which a line's time may be late."""
_RETRY_BINDING = 0.5


class NodeSettings(msgspec.Struct, frozen=True):
    """Where the node keeps things, and what it tells its containers."""

    name: str
    state: Path
    """Where all of this mesh's files are; no hostPath may lead into it, but for the log's own of the mesh."""
    volumes: Path
    """Volumes of pods; emptied at start. Best on a memory file system: tokens are in it."""
    logs: Path
    claims: Path
    """Directories behind PersistentVolumeClaims, by namespace and name; the controllers make and remove them."""
    variables: Mapping[str, str]
    """The environment that every container starts from."""


class Kubelet:
    """All pods of the one node."""

    def __init__(
        self,
        cluster: Cluster,
        cache: ObjectCache,
        runtime: Runtime,
        issue: ServiceAccountTokens,
        settings: NodeSettings,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._issue = issue
        self._settings = settings
        self._now = now
        self._logs = logs.PodLogs(settings.logs)
        self._events = EventRecorder(cluster, node=settings.name, now=now)
        self._http = probe_check.ProbeHttpClient()
        self._node = NodeContext(cluster, runtime, self._logs, self._events, self._http, settings.variables)
        self._workers: dict[str, PodWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._binding: set[str] = set()
        self._closed = False

    async def run(self) -> None:
        """Run pods for ever; the cache must run beside it."""
        shutil.rmtree(self._settings.volumes, ignore_errors=True)
        self._settings.volumes.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._register()
        await self._cache.synced.wait()
        self._cache.subscribe("pods", self._on_pod)
        self._cache.subscribe("configmaps", lambda change: self._on_configuration("configmaps", change))
        self._cache.subscribe("secrets", lambda change: self._on_configuration("secrets", change))
        self._cache.subscribe(_CLAIMS, lambda change: self._on_configuration(_CLAIMS, change))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._events.run())
            group.create_task(self._bound_logs())
            group.create_task(self._note_logs())

    async def close(self, grace: float) -> None:
        """The node goes down: every process has `grace` seconds to end by itself. Objects stay as they are."""
        self._closed = True
        await asyncio.gather(*(worker.halt(grace) for worker in self._workers.values()), return_exceptions=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.close()

    async def execute(
        self,
        namespace: str,
        name: str,
        container: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        standard: tuple[int, int, int],
    ) -> Process:
        """Start a command in a running container (empty: the pod's first), on these descriptors.

        Raises `BadInputError` if it does not run, `OSError` if the command cannot be executed.
        """
        worker, container = self._running(namespace, name, container)
        return await worker.processes.start_beside(container, argv, environment=environment, standard=standard)

    def signal(self, namespace: str, name: str, container: str, number: int) -> None:
        """Signal a container's process, as a crash or an operator would. Raises `BadInputError` if it does not run."""
        worker, container = self._running(namespace, name, container)
        worker.processes.signal(container, number)

    def _running(self, namespace: str, name: str, container: str) -> tuple[PodWorker, str]:
        pod = self._cache.get("pods", namespace, name)
        if pod is None:
            raise BadInputError("devcluster/no-pod", f"there is no pod {namespace}/{name}")
        worker = self._workers.get(object_fields.uid(pod))
        container = self._chosen(pod, container)
        if worker is None or not worker.is_running(container):
            raise BadInputError("devcluster/not-running", f"container {container} of {namespace}/{name} does not run")
        return worker, container

    def _chosen(self, pod: Obj, container: str) -> str:
        """The container that is meant: the first if none is named. Raises `BadInputError` for one that is not there."""
        known = [each["name"] for each in [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or [])]]
        if container and container not in known:
            about = f"pod {object_fields.namespace(pod)}/{object_fields.name(pod)}"
            raise BadInputError(
                "devcluster/no-container", f"it has no {container}, but {', '.join(known)}", about=about
            )
        return container or known[0]

    async def log(
        self,
        namespace: str,
        name: str,
        container: str = "",
        *,
        wanted: logs.LogRange = logs.ALL,
        follow: bool = False,
        previous: bool = False,
    ) -> AsyncGenerator[bytes]:
        """What a container printed in all its runs, or in the previous one; also of a pod that is gone, for a while.

        Raises `BadInputError` if there is no such log, `KubeApiError` if there was no previous run.
        """
        pod = self._cache.get("pods", namespace, name)
        if pod is not None:
            container = self._chosen(pod, container)
        path = self._logs.path(pod, container) if pod is not None else self._logs.find(namespace, name, container)
        if path is None:
            raise BadInputError("devcluster/no-pod", f"there is no log of pod {namespace}/{name}")
        worker = self._workers.get(object_fields.uid(pod)) if pod is not None else None

        def going() -> bool:
            return worker is not None and worker.uid in self._workers and not worker.has_ended(container)

        if previous:
            run = worker.processes.previous_run(container) if worker is not None else None
            if run is None:
                message = f'previous terminated container "{container}" in pod "{name}" not found'
                raise KubeApiError(400, "BadRequest", message)
            yield self._logs.read_part(path, *run, wanted)
            return
        async for chunk in self._logs.read(path, wanted, follow=going if follow else None):
            yield chunk

    async def _register(self) -> None:
        name = self._settings.name
        if await self._cluster.get("nodes", "", name) is None:
            await self._cluster.create("nodes", node_object(name))
        status = node_status(name, self._node.runtime.node_ip, self._now())
        await self._cluster.patch("nodes", "", name, {"status": status}, subresource="status")

    def _on_pod(self, change: ObjectChange) -> None:
        pod, uid = change.object, object_fields.uid(change.object)
        worker = self._workers.get(uid)
        if change.new is None:
            if worker is not None:
                worker.vanish()
            return
        if worker is not None:
            worker.update(pod)
            return
        bound_to = pod["spec"].get("nodeName")
        if self._closed or (object_fields.is_pod_finished(pod) and not object_fields.is_terminating(pod)):
            return
        if not bound_to:
            if uid not in self._binding:
                self._binding.add(uid)
                self._spawn(self._bind(pod))
            return
        if bound_to == self._settings.name:
            self._workers[uid] = worker = self._worker(pod)
            self._spawn(self._tend(pod, worker))

    def _worker(self, pod: Obj) -> PodWorker:
        namespace = object_fields.namespace(pod)
        lookup: Lookup = lambda resource, name: self._cache.get(resource, namespace, name)  # noqa: E731
        volumes = PodVolumes(
            pod,
            directory=self._settings.volumes / object_fields.uid(pod),
            claims=self._settings.claims,
            state=self._settings.state,
            lookup=lookup,
            issue=self._issue,
            root_ca=object_fields.ROOT_CA,
            automount=self._automounts(pod),
            now=self._now,
        )
        return PodWorker(pod, self._node, volumes, lookup, now=self._now)

    def _automounts(self, pod: Obj) -> bool:
        own: bool | None = pod["spec"].get("automountServiceAccountToken")
        if own is not None:
            return own
        name = pod["spec"].get("serviceAccountName") or "default"
        account = self._cache.get("serviceaccounts", object_fields.namespace(pod), name)
        return account is None or account.get("automountServiceAccountToken") is not False

    async def _bind(self, pod: Obj) -> None:
        """What the scheduler does, and the defaults that admission may have left out."""
        spec: Obj = {"nodeName": self._settings.name}
        if not pod["spec"].get("serviceAccountName"):
            spec["serviceAccountName"] = "default"
        while self._cache.get("pods", *object_fields.key(pod)) is not None:
            try:
                await self._cluster.patch("pods", *object_fields.key(pod), {"spec": spec})
            except KubeApiError as error:
                if error.status != 404:
                    _log.warning("pod %s/%s cannot be bound: %s", *object_fields.key(pod), error)
                await asyncio.sleep(_RETRY_BINDING)
            else:
                break
        self._binding.discard(object_fields.uid(pod))

    async def _tend(self, pod: Obj, worker: PodWorker) -> None:
        try:
            await worker.run()
        except Exception:  # noqa: BLE001 - one pod's failure, or a bug met by it, must not end all others
            _log.exception("pod %s/%s ended by an error of the node agent", *object_fields.key(pod))
        finally:
            self._workers.pop(worker.uid, None)
            self._events.forget(pod)
            self._logs.forget()

    def _on_configuration(self, resource: str, change: ObjectChange) -> None:
        namespace, name = object_fields.key(change.object)
        for worker in self._workers.values():
            if worker.namespace == namespace:
                worker.configuration_changed(resource, name)

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(_BOUND_LOGS_EVERY)
            self._logs.bound()

    async def _note_logs(self) -> None:
        while True:
            await asyncio.sleep(_NOTE_LOGS_EVERY)
            self._logs.note()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
