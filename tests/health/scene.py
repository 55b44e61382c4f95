"""A mesh with a few workloads, in the hands of the matrix; and everything that should name what is wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from pathlib import Path

import msgspec
import yaml

from cli.embedded import lifecycle
from cli.embedded.pod_commands import PodCommand
from cli.kubernetes import kubeconfig
from cli.kubernetes.api_client import Api, Manifest, connect
from deploy.install.service_workloads import NATS_SECRET
from shared.eventlog.jetstream.nats_connection import NatsConnection, NatsSession
from shared.eventlog.jetstream.stream_api import call
from tests.faults.machine import Machine
from tests.faults.strangers import passwords
from tests.waiting import eventually

SYSTEM = "meshlog-system"
HOME = "matrix"
PEEK = str(Path(__file__).with_name("peek.py"))
_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

WORKLOADS = """
apiVersion: v1
kind: Namespace
metadata:
  name: matrix
  labels: {openservicemesh.io/monitored-by: meshlog}
  annotations: {openservicemesh.io/sidecar-injection: enabled}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: matrix, labels: {app: web}}
spec:
  containers: [{name: web, image: any, command: [sleep, infinity], ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: matrix}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
"""


Samples = list[tuple[str, Mapping[str, str], float]]
"""Family, labels and value of each metric of each process."""


class Scene:
    """The mesh."""

    def __init__(self, state: Path, api: Api) -> None:
        self.state = state
        self.api = api
        self.machine = Machine(state)

    # What is done to it

    async def apply(self, text: str) -> list[Manifest]:
        """Apply YAML."""
        found: list[Manifest] = [one for one in yaml.safe_load_all(text) if one]
        await self.apply_all(found)
        return found

    async def apply_all(self, manifests: Sequence[Manifest]) -> None:
        """Apply objects."""
        for one in manifests:
            await self.api.apply(one)

    async def patch(self, path: str, change: Manifest) -> None:
        """Merge a change into an object (RFC 7386)."""
        status, answer = await self.api.request("PATCH", path, body=change, content_type="application/merge-patch+json")
        assert status == 200, answer

    async def delete(self, manifests: list[Manifest]) -> None:
        """Delete objects; those that are gone are fine."""
        for one in reversed(manifests):
            await self.api.delete(one)

    async def scale(self, name: str, replicas: int) -> int:
        """Scale a Deployment of the control plane; how many replicas were wanted before."""
        path = f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/{name}"
        before = (await self.api.get(path))["spec"]["replicas"]
        body = {"spec": {"replicas": replicas}}
        status, _ = await self.api.request(
            "PATCH", path, body=body, content_type="application/strategic-merge-patch+json"
        )
        assert status == 200
        return int(before)

    async def limit(self, stream: str, most: int, *, of: str = "max_bytes", owner: str = "ingestor") -> None:
        """Have a stream of the log take so many bytes; -1: any number. As the service that owns it.

        `of`: in all (`max_bytes`), or in one record (`max_msg_size`). A stream that keeps one record of each subject
        takes a record beyond the first limit if it is shorter than the one it replaces.
        """
        async with self._session(owner) as session:
            info = await call(session, stream, f"STREAM.INFO.{stream}")
            await call(session, stream, f"STREAM.UPDATE.{stream}", {**info["config"], of: most})

    async def asked(self) -> bool:
        """Whether a signing request waits in the log."""
        async with self._session("ca") as session:
            return (await call(session, "MESH_CSRS", "STREAM.INFO.MESH_CSRS"))["state"]["messages"] > 0

    @contextlib.asynccontextmanager
    async def _session(self, owner: str) -> AsyncGenerator[NatsSession]:
        """To the log, as this service."""
        file = self.state / f"{owner}.password"
        file.write_text(passwords()[NATS_SECRET.format(owner)], encoding="utf-8")
        access = msgspec.structs.replace(
            lifecycle.log_access(lifecycle.running()), user=owner, password_file=str(file), inbox=f"_INBOX_{owner}"
        )
        connection = NatsConnection(access)
        connection.open()
        try:
            yield await connection.session(within=5)
        finally:
            await connection.close()

    def sidecar(self) -> int:
        """Pid of the Envoy of the pod `web`. Raises `LookupError` if there is none."""
        found = self.machine.processes(f"sidecar {HOME}")
        if not found:
            raise LookupError(f"no Envoy runs in namespace {HOME}")
        return found[0]

    async def start(self, pod: str, argv: Sequence[str]) -> PodCommand:
        """Start a command in a pod of the matrix, as soon as that runs."""
        path = f"/api/v1/namespaces/{HOME}/pods/{pod}"
        await self.api.wait(path, lambda one: one["status"].get("phase") == "Running", within=30, what="a pod to run")
        return await PodCommand.start(self.state, HOME, pod, argv)

    async def command(self, *words: str, within: float = 30.0) -> tuple[int, str]:
        """Run `meshlog`; its exit code and what it prints."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "cli", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(within):
            output, complaint = await process.communicate()
        return process.returncode or 0, output.decode() or complaint.decode()

    # What is said of it

    async def found(self, *words: str) -> tuple[int, dict[str, list[str]]]:
        """The exit code of a verb, and its findings by check."""
        code, said = await self.command(*words, "-o", "json")
        found: dict[str, list[str]] = {}
        for one in json.loads(said)["findings"]:
            found.setdefault(one["check"], []).append(one["sentence"])
        return code, found

    async def peek(self) -> tuple[dict[str, dict[str, str]], Samples]:
        """What `/readyz` of each service's processes says, reasons and remarks, and their metrics."""
        listing = await self.api.get(f"/api/v1/namespaces/{SYSTEM}/pods")
        pods = {
            one["status"]["podIP"]: one["metadata"]["labels"]["app.kubernetes.io/name"].removeprefix("meshlog-")
            for one in listing["items"]
            if one.get("status", {}).get("podIP") and not one["metadata"].get("deletionTimestamp")
        }
        addresses = [address for address, service in pods.items() if service != "nats"]
        injector = next(one["metadata"]["name"] for one in listing["items"] if "injector" in one["metadata"]["name"])
        asked = await PodCommand.start(self.state, SYSTEM, injector, ["python", PEEK, *addresses])
        ready: dict[str, dict[str, str]] = {}
        samples: Samples = []
        for address, said, text in json.loads(await asked.finish(within=10)):
            ready.setdefault(pods[address], {}).update({**said.get("why_not", {}), **said.get("remarks", {})})
            samples += [
                (name, dict(_LABEL.findall(labels or "")), float(value))
                for name, labels, value in _SAMPLE.findall(text)
            ]
        return ready, samples

    async def conditions(self, path: str) -> dict[str, tuple[str, str]]:
        """Status and reason of each condition of an object."""
        one = await self.api.get(path)
        return {each["type"]: (each["status"], each["reason"]) for each in one.get("status", {}).get("conditions", [])}

    async def without(self, checks: Collection[str], *, within: float = 60.0) -> None:
        """Wait until `status` finds nothing of these checks."""

        async def look() -> bool:
            _, found = await self.found("status")
            assert not found.keys() & set(checks), found
            return True

        await eventually(look, within=within, what=f"nothing is found of {', '.join(checks)}")


@contextlib.asynccontextmanager
async def opened() -> AsyncGenerator[Scene]:
    """The mesh that `$MESHLOG_STATE` names, with the matrix's workloads on it for as long as this lasts."""
    state = lifecycle.state_directory()
    async with connect(kubeconfig.read(state / lifecycle.KUBECONFIG)) as api:
        await lifecycle.control_plane_available(api, lambda _: None)
        scene = Scene(state, api)
        made = await scene.apply(WORKLOADS)
        try:
            await scene.without(["never-connected", "behind", "gone", "replicas", "leader"])
            yield scene
        finally:
            await scene.delete(made)
