# ruff: noqa: ARG002 - what is played here ignores what a machine would need
"""A machine that starts nothing: processes are objects that a test ends, and a node agent on top of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from deploy.devcluster import object_fields
from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.cluster_api import Cluster, Obj
from deploy.devcluster.controllers import CACHED_RESOURCES
from deploy.devcluster.kubelet import Kubelet, NodeSettings, ServiceAccountToken
from deploy.devcluster.object_cache import ObjectCache
from deploy.devcluster.runtime import DEFAULT_CONFINEMENT, Confinement, Mount, ServiceRoute
from tests.waiting import eventually

WITHIN = 5.0


class PlayedProcess:
    """A process that ends when told to, or by the first signal that it obeys."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], mounts: Sequence[Mount]) -> None:
        self.argv = list(argv)
        self.environment = dict(environment)
        self.mounts = {str(mount.target): mount for mount in mounts}
        self.confinement = Confinement()
        self.signals: list[int] = []
        self.stubborn = False
        self.pid = 1
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def running(self) -> bool:
        return not self._ended.done()

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def signal(self, number: int) -> None:
        self.signals.append(number)
        if number == 9 or not self.stubborn:
            self.end(128 + number)

    def end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)


class PlayedSandbox:
    def __init__(self, machine: PlayedMachine, ip: str) -> None:
        self.ip = ip
        self.removed = False
        self._machine = machine

    async def start(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        mounts: Sequence[Mount],
        log: Path,
        working_directory: Path | None = None,
        confinement: Confinement = DEFAULT_CONFINEMENT,
    ) -> PlayedProcess:
        if argv[0] == "missing":
            raise FileNotFoundError(2, "No such file or directory", argv[0])
        process = PlayedProcess(argv, environment, mounts)
        process.confinement = confinement
        self._machine.started.append(process)
        self._machine.on_start(process)
        return process

    async def execute(
        self,
        container: Any,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        standard: tuple[int, int, int],
        working_directory: Path | None = None,
    ) -> PlayedProcess:
        process = PlayedProcess(argv, environment, ())
        self._machine.executed.append(process)
        self._machine.on_execute(process)
        return process

    async def remove(self) -> None:
        self.removed = True


class PlayedMachine:
    """The runtime."""

    node_ip = "10.244.0.1"

    def __init__(self) -> None:
        self.sandboxes: dict[str, PlayedSandbox] = {}
        self.started: list[PlayedProcess] = []
        self.executed: list[PlayedProcess] = []
        self.on_start: Callable[[PlayedProcess], None] = lambda _: None
        self.on_execute: Callable[[PlayedProcess], None] = lambda process: process.end(0)

    async def create_sandbox(
        self, *, uid: str, hostname: str, host_network: bool = False, namespace: str = "default"
    ) -> PlayedSandbox:
        made = self.sandboxes[uid] = PlayedSandbox(self, f"10.244.0.{len(self.sandboxes) + 2}")
        return made

    async def set_service_routes(self, routes: Sequence[ServiceRoute]) -> None: ...

    async def set_names(self, names: Mapping[str, Sequence[str]]) -> None: ...

    def running(self, name: str) -> list[PlayedProcess]:
        """Processes of the container whose command says its name."""
        return [process for process in self.started if process.running and process.argv[-1] == name]


class Node:
    """The node agent at work."""

    def __init__(self, cluster: Cluster, machine: PlayedMachine, kubelet: Kubelet, root: Path) -> None:
        self.cluster = cluster
        self.machine = machine
        self.kubelet = kubelet
        self.root = root
        self.tokens: list[tuple[str, int]] = []
        """(audience, lifetime) of each token that was issued."""

    async def pod(self, name: str = "pod") -> Obj:
        found = await self.cluster.get("pods", "default", name)
        assert found is not None
        return found

    async def run(self, pod: Obj) -> None:
        await self.cluster.create("pods", pod)

    async def until(self, what: str, holds: Callable[[Obj], Any], name: str = "pod") -> Obj:
        """Wait until the pod is so."""

        async def probe() -> Obj | None:
            found = await self.cluster.get("pods", "default", name)
            return found if found is not None and holds(found) else None

        return await eventually(probe, within=WITHIN, what=what)

    async def until_started(self, container: str, *, times: int = 1) -> PlayedProcess:
        def probe() -> PlayedProcess | None:
            found = [process for process in self.machine.started if process.argv[-1] == container]
            return found[times - 1] if len(found) >= times else None

        return await eventually(probe, within=WITHIN, what=f"{container} was started {times} times")

    async def until_gone(self, name: str = "pod") -> None:
        async def probe() -> bool:
            return await self.cluster.get("pods", "default", name) is None

        await eventually(probe, within=WITHIN, what="the pod is gone")


@asynccontextmanager
async def node(tmp_path: Path, *, token_lifetime: float = 3600.0) -> AsyncGenerator[Node]:
    api = ApiServer()
    await api.cluster.create("namespaces", {"metadata": {"name": "default"}})
    machine = PlayedMachine()
    cache = ObjectCache(api.cluster, CACHED_RESOURCES)
    issued: list[tuple[str, int]] = []

    async def issue(pod: Obj, *, audience: str, expiration_seconds: int) -> ServiceAccountToken:
        issued.append((audience, expiration_seconds))
        return ServiceAccountToken(token=f"token {len(issued)} for {audience}", expires_at=time.time() + token_lifetime)

    settings = NodeSettings(
        name="devcluster",
        state=tmp_path / "state",
        volumes=tmp_path / "pods",
        logs=tmp_path / "logs",
        claims=tmp_path / "claims",
        variables={"PATH": "/usr/bin:/bin", "HOME": "/tmp"},
    )
    kubelet = Kubelet(api.cluster, cache, machine, issue, settings)
    tasks = [asyncio.create_task(cache.run()), asyncio.create_task(kubelet.run())]
    await cache.synced.wait()
    made = Node(api.cluster, machine, kubelet, tmp_path)
    made.tokens = issued
    try:
        yield made
    finally:
        for process in (*machine.started, *machine.executed):
            process.stubborn = False
        await kubelet.close(1.0)
        for task in tasks:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await api.stop()
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer


def container(name: str = "main", **fields: Any) -> Obj:
    return {"name": name, "image": name, "command": ["run", name]} | fields


def pod(*containers: Obj, name: str = "pod", **spec: Any) -> Obj:
    given: Obj = {
        "containers": list(containers) or [container()],
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 5,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": given | spec,
    }


def ready(pod: Obj) -> bool:
    return object_fields.is_pod_ready(pod)


def status_of(pod: Obj, name: str) -> Obj:
    status = pod.get("status") or {}
    entries = [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]
    found = [entry for entry in entries if entry["name"] == name]
    assert found, f"the status says nothing of {name}"
    return found[0]
