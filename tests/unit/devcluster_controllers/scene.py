"""A cluster in memory with the controllers at work, and pods that become ready when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from deploy.devcluster import object_fields
from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.cluster_api import Cluster, Obj
from deploy.devcluster.controllers import CACHED_RESOURCES, ControllerManager
from deploy.devcluster.object_cache import ObjectCache
from deploy.devcluster.runtime import Sandbox, ServiceRoute


class NetworkBook:
    """A runtime that only remembers what it was told about the network."""

    node_ip = "10.244.0.1"

    def __init__(self) -> None:
        self.routes: Sequence[ServiceRoute] = ()
        self.names: Mapping[str, Sequence[str]] = {}

    async def create_sandbox(
        self, *, uid: str, hostname: str, host_network: bool = False, namespace: str = "default"
    ) -> Sandbox:
        raise NotImplementedError

    async def set_service_routes(self, routes: Sequence[ServiceRoute]) -> None:
        self.routes = routes

    async def set_names(self, names: Mapping[str, Sequence[str]]) -> None:
        self.names = names


class Scene:
    """What a test looks at and moves."""

    def __init__(self, cluster: Cluster, network: NetworkBook, controllers: ControllerManager) -> None:
        self.cluster = cluster
        self.network = network
        self.controllers = controllers
        self._addresses = 0

    async def pods(self, namespace: str = "default") -> list[Obj]:
        return (await self.cluster.list("pods", namespace))[0]

    async def make_ready(self, pod: Obj, *, ready: bool = True) -> None:
        """Act as the node agent: the pod has an address and is ready, or not."""
        address = (pod.get("status") or {}).get("podIP")
        if not address:
            self._addresses += 1
            address = f"10.244.1.{self._addresses}"
        if not pod["spec"].get("nodeName"):
            await self.cluster.patch("pods", *object_fields.key(pod), {"spec": {"nodeName": "devcluster"}})
        conditions = object_fields.with_condition([], "Ready", "True" if ready else "False", now=1.0)
        status = {"phase": "Running", "podIP": address, "conditions": conditions}
        await self.cluster.patch("pods", *object_fields.key(pod), {"status": status}, subresource="status")

    async def make_all_ready(self, namespace: str = "default") -> None:
        for pod in await self.pods(namespace):
            if not object_fields.is_pod_ready(pod) and not object_fields.is_terminating(pod):
                await self.make_ready(pod)

    async def bury(self, namespace: str = "default") -> None:
        """Act as the node agent: pods that are to go are gone."""
        for pod in await self.pods(namespace):
            if object_fields.is_terminating(pod):
                await self.cluster.delete("pods", *object_fields.key(pod), grace_seconds=0)


@asynccontextmanager
async def scene(now: Callable[[], float] | None = None, *, claims: Path | None = None) -> AsyncGenerator[Scene]:
    api = ApiServer()
    for name in ("default",):
        await api.cluster.create("namespaces", {"metadata": {"name": name}})
    network = NetworkBook()
    cache = ObjectCache(api.cluster, CACHED_RESOURCES)
    options: dict[str, Any] = {"now": now} if now else {}
    controllers = ControllerManager(
        api.cluster,
        cache,
        network,
        service_network="10.96.0.0/16",
        domain="cluster.local",
        ca_certificate="the CA",
        claims=claims or Path("/nonexistent"),
        kept_namespace="kept",
        **options,
    )
    tasks = [asyncio.create_task(cache.run()), asyncio.create_task(controllers.run())]
    try:
        yield Scene(api.cluster, network, controllers)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await api.stop()


def deployment(name: str = "web", *, replicas: int = 3, image: str = "one", **spec: Any) -> Obj:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name, image)}
        | spec,
    }


def template(name: str = "web", image: str = "one") -> Obj:
    return {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": image, "command": ["sleep", "1"]}]},
    }


def service(name: str = "web", **spec: Any) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]} | spec,
    }
