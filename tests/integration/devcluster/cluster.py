"""A whole devcluster as its users see it: the Kubernetes API over HTTPS, and commands in pods."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.launch.control import ask
from deploy.devcluster.launch.mesh_process import LaunchedMesh, start
from tests.waiting import eventually

WITHIN = 20.0
PLURALS = {
    "Pod": ("api/v1", "pods"),
    "Service": ("api/v1", "services"),
    "ConfigMap": ("api/v1", "configmaps"),
    "Deployment": ("apis/apps/v1", "deployments"),
    "StatefulSet": ("apis/apps/v1", "statefulsets"),
    "EndpointSlice": ("apis/discovery.k8s.io/v1", "endpointslices"),
}


class Cluster:
    """A running devcluster."""

    def __init__(self, mesh: LaunchedMesh) -> None:
        self.mesh = mesh
        self.state_dir = mesh.state_dir
        self.kubeconfig = Path(mesh.facts["kubeconfig"])
        config = yaml.safe_load(self.kubeconfig.read_text())
        self._server: str = config["clusters"][0]["cluster"]["server"]
        authority = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        self._headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}

    @classmethod
    def start(cls, state_dir: Path, *arguments: str, listeners: Sequence[str] = ()) -> Cluster:
        argv = [sys.executable, "-m", "deploy.devcluster", *arguments]
        addresses = dict.fromkeys(("api", *listeners), ("127.0.0.1", 0))
        return cls(start(state_dir, argv, listeners=addresses, detached=False))

    async def call(self, method: str, path: str, body: Obj | None = None) -> Any:
        async with (
            aiohttp.ClientSession(headers=self._headers) as session,
            session.request(method, f"{self._server}/{path}", json=body, ssl=self._tls) as response,
        ):
            answer = await (response.json() if "json" in response.content_type else response.text())
            assert response.status < 400, answer
            return answer

    async def create(self, *manifests: Obj) -> None:
        for manifest in manifests:
            group, plural = PLURALS[manifest["kind"]]
            namespace = manifest["metadata"].get("namespace", "default")
            await self.call("POST", f"{group}/namespaces/{namespace}/{plural}", manifest)

    async def get(self, kind: str, name: str) -> Obj:
        group, plural = PLURALS[kind]
        return await self.call("GET", f"{group}/namespaces/default/{plural}/{name}")

    async def delete(self, kind: str, name: str) -> None:
        group, plural = PLURALS[kind]
        await self.call("DELETE", f"{group}/namespaces/default/{plural}/{name}")

    async def pods(self, app: str) -> list[Obj]:
        answer = await self.call("GET", f"api/v1/namespaces/default/pods?labelSelector=app%3D{app}")
        return answer["items"]

    async def endpoints(self, service: str) -> list[str]:
        """Addresses that are ready for the Service."""
        selector = f"kubernetes.io%2Fservice-name%3D{service}"
        answer = await self.call(
            "GET", f"apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector={selector}"
        )
        return [
            endpoint["addresses"][0]
            for each in answer["items"]
            for endpoint in each.get("endpoints") or []
            if endpoint["conditions"]["ready"]
        ]

    async def until_ready(self, app: str, count: int = 1) -> list[Obj]:
        async def probe() -> list[Obj] | None:
            pods = [pod for pod in await self.pods(app) if not object_fields.is_terminating(pod)]
            return pods if len(pods) == count and all(map(object_fields.is_pod_ready, pods)) else None

        return await eventually(probe, within=WITHIN, what=f"{count} pods of {app} are ready")

    async def until_gone(self, app: str) -> None:
        async def probe() -> bool:
            return not await self.pods(app)

        await eventually(probe, within=WITHIN, what=f"the pods of {app} are gone")

    async def log(self, pod: str, query: str = "") -> str:
        return await self.call("GET", f"api/v1/namespaces/default/pods/{pod}/log{query}")

    async def run_in(self, pod: str, *argv: str) -> str:
        """What a command in the pod prints; it must succeed."""
        code, printed = await asyncio.to_thread(self._run_in, pod, argv)
        assert code == 0, printed
        return printed

    def _run_in(self, pod: str, argv: Sequence[str]) -> tuple[int, str]:
        reading, writing = os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        request = {"op": "exec", "namespace": "default", "pod": pod, "container": "", "argv": list(argv)}
        try:
            (answer,) = ask(self.state_dir, request | {"environment": {}}, [nothing, writing, writing])
        finally:
            os.close(writing)
            os.close(nothing)
        with os.fdopen(reading, "rb") as stream:
            return answer["exit"], stream.read().decode().strip()

    async def kill(self, pod: str) -> None:
        request = {"op": "kill", "namespace": "default", "pod": pod, "container": "", "signal": 9}
        await asyncio.to_thread(lambda: list(ask(self.state_dir, request)))

    def kubectl(self, *arguments: str) -> str:
        program = shutil.which("kubectl")
        assert program is not None
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        done = subprocess.run(
            [program, *arguments], env=environment, capture_output=True, text=True, timeout=WITHIN, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def pod(name: str, *command: str, **spec: Any) -> Obj:
    container: Obj = {"name": "main", "image": "none", "command": list(command)}
    container |= spec.pop("container", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 2} | spec,
    }


def workload(kind: str, name: str, replicas: int, *command: str, **spec: Any) -> Obj:
    template = pod(name, *command, container=spec.pop("container", {}))
    del template["metadata"]["name"]
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": template["metadata"], "spec": template["spec"]},
        }
        | spec,
    }


def service(name: str, port: int, target: int, **spec: Any) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": port, "targetPort": target}]} | spec,
    }


def processes(wanted: Callable[[str], bool]) -> list[str]:
    """Command lines on this machine that are wanted."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if wanted(line):
            found.append(line)
    return found
