"""One mesh for the rows of Open Service Mesh's acceptance list: its objects, and a handle that calls and changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cli.arrival.attached_mesh import AttachedMesh, NotArrivedError, attached
from cli.embedded import lifecycle
from cli.embedded.pod_commands import PodCommand
from cli.kubernetes.api_client import Manifest

APPS = str(Path(__file__).with_name("apps.py"))
PATIENCE = 4.0

_WORKLOADS = """
- {name: server, replicas: 2, args: "http:8080 http:8081 https:8443 tcp:9000 first:2525 grpc:50051 grpcs:50443"}
- {name: v1, account: leaf, labels: {tier: leaves}, args: "http:8080 first:9000"}
- {name: v2, account: leaf, labels: {tier: leaves}, args: "http:8080 first:9000"}
- {name: v3, account: leaf3, labels: {tier: leaves}, args: "http:8080 first:9000"}
- {name: client, account: client, args: "http:8080"}
- {name: other, account: other}
"""
_SERVICES = """
- {name: server, ports: [{port: 80, targetPort: 8080, name: http}, {port: 9000, name: tcp-echo}]}
- {name: mail, selector: {app: server}, ports: [{port: 25, targetPort: 2525, appProtocol: tcp-server-first}]}
- {name: rpc, selector: {app: server}, ports: [{port: 50051, appProtocol: grpc}]}
- {name: rpc-tls, selector: {app: server}, ports: [{port: 50443, appProtocol: tcp}]}
- {name: web-tls, selector: {app: server}, ports: [{port: 443, targetPort: 8443, name: https-web}]}
- {name: twin, selector: {app: server}, ports: [{port: 81, targetPort: 8080, name: http}]}
- name: several
  selector: {app: server}
  ports: [{port: 82, targetPort: web, name: http-a}, {port: 83, targetPort: 8099, name: http-dead}]
- {name: nodes, selector: {app: server}, clusterIP: None, ports: [{port: 8080, name: http}]}
- name: leaves
  selector: {tier: leaves}
  ports: [{port: 80, targetPort: 8080, name: http}, {port: 9000, name: tcp-echo}]
- {name: v1, ports: [{port: 80, targetPort: 8080, name: http}, {port: 9000, name: tcp-echo}]}
- {name: v2, ports: [{port: 80, targetPort: 8080, name: http}, {port: 9000, name: tcp-echo}]}
- {name: v3, ports: [{port: 80, targetPort: 8080, name: http}, {port: 9000, name: tcp-echo}]}
- {name: client, ports: [{port: 80, targetPort: 8080, name: http}]}
"""


def _container(args: str) -> dict[str, Any]:
    command = [sys.executable, APPS, "serve", *args.split()] if args else ["sleep", "infinity"]
    return {"name": "main", "image": "any", "command": command, "ports": [{"containerPort": 8081, "name": "web"}]}


def _meta(name: str, namespace: str = "app", **more: Any) -> dict[str, Any]:
    return {"name": name, "namespace": namespace, **more}


def _workload(kind: str, name: str, args: str, *, namespace: str = "app", **how: Any) -> Manifest:
    labels = {"app": name, **how.get("labels", {})}
    pod = {
        "serviceAccountName": how.get("account", name),
        "terminationGracePeriodSeconds": 1,
        "containers": [_container(args)],
    }
    spec: dict[str, Any] = {
        "replicas": how.get("replicas", 1),
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    if kind == "StatefulSet":
        spec["serviceName"] = name
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": _meta(name, namespace), "spec": spec}


def workloads() -> list[Manifest]:
    """Everything but policy."""
    member = {"openservicemesh.io/monitored-by": "meshlog"}
    annotations = {"openservicemesh.io/sidecar-injection": "enabled"}
    found: list[Manifest] = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "app", "labels": member, "annotations": annotations},
        },
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "near", "labels": member}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "far"}},
        config(),
    ]
    items = yaml.safe_load(_WORKLOADS)
    accounts = {item.get("account", item["name"]) for item in items}
    found += [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta(name)} for name in sorted(accounts)]
    found += [_workload("Deployment", item.pop("name"), item.pop("args", ""), **item) for item in items]
    found.append(_workload("Deployment", "plain", "", namespace="far", account="default"))
    for item in yaml.safe_load(_SERVICES):
        spec = {key: value for key, value in item.items() if key != "name"}
        spec.setdefault("selector", {"app": item["name"]})
        found.append({"apiVersion": "v1", "kind": "Service", "metadata": _meta(item["name"]), "spec": spec})
    return found


def quorum() -> list[Manifest]:
    """A StatefulSet whose members listen on their own addresses only, and find each other by name, as ZooKeeper's do.

    Clients have a Service with an address.
    """
    ports = [{"port": 2888, "name": "tcp-peer"}, {"port": 3888, "name": "tcp-election"}]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta("zk")},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _meta("zk"),
            "spec": {"clusterIP": "None", "selector": {"app": "zk"}, "ports": ports},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _meta("zk-client"),
            "spec": {"selector": {"app": "zk"}, "ports": [{"port": 2181, "name": "tcp-client"}]},
        },
        _workload("StatefulSet", "zk", "first:2181 tcp:2888 tcp:3888 bind:pod", replicas=3),
    ]


def many(clients: Sequence[str], leaves: Sequence[str]) -> list[Manifest]:
    """Clients of five pods each, a server `big` of five pods, and leaves of two pods each behind a Service `root`."""
    web = [{"port": 80, "targetPort": 8080, "name": "http"}]
    found = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta(name)} for name in (*clients, "big", *leaves)
    ]
    for name in ("big", *leaves, "root"):
        selector = {"part": "leaf"} if name == "root" else {"app": name}
        spec = {"selector": selector, "ports": web}
        found.append({"apiVersion": "v1", "kind": "Service", "metadata": _meta(name), "spec": spec})
    found += [_workload("Deployment", name, "", replicas=5) for name in clients]
    found.append(_workload("Deployment", "big", "http:8080", replicas=5))
    found += [_workload("Deployment", name, "http:8080", replicas=2, labels={"part": "leaf"}) for name in leaves]
    return found


def config(
    *,
    permissive: bool = False,
    pod_ip: bool = False,
    traffic: Mapping[str, Any] | None = None,
    sidecar: Mapping[str, Any] | None = None,
) -> Manifest:
    """The MeshConfig, with more fields of its two parts."""
    return {
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": _meta("osm-mesh-config", "meshlog-system"),
        "spec": {
            "sidecar": {"localProxyMode": "PodIP" if pod_ip else "Localhost", **(sidecar or {})},
            "traffic": {
                "enablePermissiveTrafficPolicyMode": permissive,
                "enableEgress": False,
                **(traffic or {}),
            },
        },
    }


def group(name: str = "all", namespace: str = "app", **match: Any) -> Manifest:
    """A route group of one match."""
    spec = {"matches": [{"name": "it", "pathRegex": ".*", "methods": ["*"], **match}]}
    meta = _meta(name, namespace)
    return {"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "metadata": meta, "spec": spec}


def ports(*numbers: int, name: str = "ports") -> Manifest:
    """A route of bytes."""
    spec = {"matches": {"ports": list(numbers)}}
    return {"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "TCPRoute", "metadata": _meta(name), "spec": spec}


def opens(
    account: str, *sources: str, by: tuple[str, str] = ("HTTPRouteGroup", "all"), namespace: str = "app"
) -> Manifest:
    """A TrafficTarget."""
    return {
        "apiVersion": "access.smi-spec.io/v1alpha3",
        "kind": "TrafficTarget",
        "metadata": _meta(f"{account}-{'-'.join(sources)}-{by[1]}", namespace),
        "spec": {
            "destination": {"kind": "ServiceAccount", "name": account, "namespace": "app"},
            "sources": [{"kind": "ServiceAccount", "name": one, "namespace": "app"} for one in sources],
            "rules": [{"kind": by[0], "name": by[1]}],
        },
    }


def split(root: str, **weights: int) -> Manifest:
    """A TrafficSplit."""
    backends = [{"service": name, "weight": weight} for name, weight in weights.items()]
    return {
        "apiVersion": "split.smi-spec.io/v1alpha2",
        "kind": "TrafficSplit",
        "metadata": _meta(root),
        "spec": {"service": root, "backends": backends},
    }


ALL, BYTES = ("HTTPRouteGroup", "all"), ("TCPRoute", "ports")


class Rows:
    """The mesh in the hands of a test."""

    def __init__(self, mesh: AttachedMesh, state: Path) -> None:
        self.mesh = mesh
        self.state = state

    async def call(self, who: str, *calls: Sequence[Any], namespace: str = "app", pod: str = "") -> list[str]:
        """What calls come back with from a pod of a workload, a certain one if it is named."""
        argv = [sys.executable, "-S", APPS, "calls", json.dumps(calls)]
        if any(call[0] in {"grpc", "grpcs"} for call in calls):
            argv.remove("-S")
        if pod:
            command = await PodCommand.start(self.state, namespace, pod, argv)
        else:
            command = await self.mesh.start(namespace, who, argv)
        return json.loads(await command.finish(within=60))

    async def get(self, who: str, host: str, path: str = "/", *, times: int = 1, **options: Any) -> set[str]:
        """What HTTP requests come back with, each outcome once."""
        return set(await self.call(who, *[["http", f"http://{host}{path}"]] * times, **options))

    async def change(self, *, put: Sequence[Manifest] = (), drop: Sequence[Manifest] = ()) -> None:
        """Make a change, and wait until it has arrived; one that changes no proxy has when it is in the log."""
        try:
            await self.mesh.change(put=put, drop=drop, within=PATIENCE)
        except NotArrivedError as error:
            if "in no version" not in str(error):
                raise

    @contextlib.asynccontextmanager
    async def policy(self, *manifests: Manifest) -> AsyncGenerator[None]:
        """These objects while the context lasts."""
        await self.change(put=manifests)
        try:
            yield
        finally:
            await self.change(drop=manifests)

    @contextlib.asynccontextmanager
    async def placed(self, *manifests: Manifest) -> AsyncGenerator[None]:
        """These workloads, ready, while the context lasts."""
        await self.mesh.apply(manifests)
        try:
            workloads = [one["metadata"]["name"] for one in manifests if one["kind"] == "Deployment"]
            await self.available(*workloads, within=240)
            yield
        finally:
            await self.mesh.change(drop=manifests, within=60)

    async def pods(self, app: str) -> list[str]:
        """Names of the pods of a workload."""
        found = await self.mesh.api.get("/api/v1/namespaces/app/pods", params={"labelSelector": f"app={app}"})
        return [pod["metadata"]["name"] for pod in found["items"]]

    @contextlib.asynccontextmanager
    async def permissive(self) -> AsyncGenerator[None]:
        """Permissive mode while the context lasts."""
        await self.change(put=[config(permissive=True)])
        try:
            yield
        finally:
            await self.change(put=[config()])

    async def available(
        self, *names: str, kind: str = "deployments", namespace: str = "app", within: float = 60
    ) -> None:
        """Wait until workloads are ready."""
        field = "readyReplicas"
        for name in names:
            path = f"/apis/apps/v1/namespaces/{namespace}/{kind}/{name}"
            await self.mesh.api.wait(
                path,
                lambda one: one.get("status", {}).get(field, 0) >= one["spec"]["replicas"],
                within=within,
                what=name,
            )


@contextlib.asynccontextmanager
async def opened() -> AsyncGenerator[Rows]:
    """A handle on the running mesh."""
    async with attached() as mesh:
        yield Rows(mesh, lifecycle.state_directory())


def start_workloads() -> None:
    """Bring the workloads up in the running mesh."""

    async def start() -> None:
        async with opened() as rows:
            await lifecycle.control_plane_available(rows.mesh.api, lambda _: None)
            await rows.mesh.apply(workloads())
            await rows.available(*(item["name"] for item in yaml.safe_load(_WORKLOADS)))
            await rows.available("plain", namespace="far")

    asyncio.run(start())
