"""The kubelet of the one node: binds each pod and runs it in a worker of its own.

There is no scheduler: the kubelet binds a pod when it first sees it. It reacts to events of the object cache; its only
timers record and bound the size of logs.
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
"""Seconds between two records of log sizes: the error of a line's time."""
_RETRY_BINDING = 0.5


class NodeSettings(msgspec.Struct, frozen=True):
    """Directories of the node, and the environment of its containers."""

    name: str
    state: Path
    """The state directory. A hostPath inside it is rejected, except that of the mesh's log."""
    volumes: Path
    """Volumes of pods, emptied at start. It should be a tmpfs, since it contains tokens."""
    logs: Path
    claims: Path
    """Directories of PersistentVolumeClaims, by namespace and name; a controller creates and deletes them."""
    variables: Mapping[str, str]
    """Base environment of every container."""


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
        """Run pods for ever; the cache must run concurrently."""
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
        """Stop all processes, with `grace` seconds to end by themselves. API objects are not changed."""
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
        """Start a command in a running container (default: the pod's first) on these descriptors.

        Raises `BadInputError` if it does not run, `OSError` if the command cannot be executed.
        """
        worker, container = self._running(namespace, name, container)
        return await worker.processes.start_beside(container, argv, environment=environment, standard=standard)

    def signal(self, namespace: str, name: str, container: str, number: int) -> None:
        """Signal a container's process. Raises `BadInputError` if it does not run."""
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
        """Returns the container, by default the first. Raises `BadInputError` if the pod has no such container."""
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
        """The log of a container: of all runs, or of the previous one. Logs of removed pods are kept for a while.

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
        """Bind the pod to this node, and set its default service account."""
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
