"""A bookstore under load on a real mesh, its certificates changed by whoever holds it: what tests of rotations share.

Each purchase opens a connection of its own from the warehouse to the database, so that handshakes between old and new
certificates go on all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from cli.arrival.attached_mesh import AttachedMesh, attached
from cli.certificates import roots
from cli.certificates.rotation import RootRotation, RotationGoal
from cli.embedded.pod_commands import PodCommand
from cli.kubernetes.manifest_files import Manifest, read_manifests
from deploy.devcluster.launch import control
from shared.records.proxy_status import ProxyStatus
from tests.e2e.command import Command
from tests.waiting import eventually

MANIFESTS = Path(__file__).parents[2] / "deploy" / "demo" / "manifests"
STORE = "http://bookstore.bookstore.svc.cluster.local:14001"
LOAD = ("python", "-m", "deploy.demo.apps.load")
PODS = (
    ("bookbuyer", "bookbuyer"),
    ("bookstore", "bookstore-v1"),
    ("bookstore", "bookstore-v2"),
    ("bookwarehouse", "bookwarehouse"),
    ("database", "database"),
)
_GOOD = re.compile(r"ssl\.handshake: ([0-9]+)$", re.MULTILINE)
_BAD = re.compile(
    r"ssl\.(connection_error|fail_verify_error|fail_verify_san|fail_verify_no_cert): ([0-9]+)$", re.MULTILINE
)


class Scene:
    """A bookstore under load."""

    def __init__(self, mesh: AttachedMesh, desk: roots.CertificateClient, state: Path) -> None:
        self.mesh = mesh
        self.desk = desk
        self.state = state
        self.said: list[str] = []
        """What the walk of a rotation told its user."""

    async def rotate(self, wish: RotationGoal | None = None) -> str:
        return await RootRotation(self.desk, self.said.append).forward(wish or RotationGoal())

    async def kill(self, service: str) -> None:
        path = "/api/v1/namespaces/meshlog-system/pods"
        listing = await self.mesh.api.get(path, params={"labelSelector": f"app.kubernetes.io/name={service}"})
        for pod in listing["items"]:
            with contextlib.suppress(Exception):  # it may be on its way up from the kill before
                await self.mesh.kill("meshlog-system", pod["metadata"]["name"])

    async def admin(self, who: tuple[str, str], path: str) -> str:
        command = await self.mesh.start(*who, [*LOAD, f"http://127.0.0.1:15000/{path}", "--requests", "1"])
        return str(json.loads((await command.finish(within=30)).splitlines()[-1])["body"])

    async def edges(self, replicas: int) -> None:
        path = "/apis/apps/v1/namespaces/meshlog-system/deployments/meshlog-xds-edge"
        patch = {"spec": {"replicas": replicas}}
        status, answer = await self.mesh.api.request(
            "PATCH", path, body=patch, content_type="application/merge-patch+json"
        )
        assert status == 200, answer

    async def signal(self, namespace: str, pod: str, container: str, number: int) -> None:
        """Signal one container of a pod, from outside."""
        request = {"op": "kill", "namespace": namespace, "pod": pod, "container": container, "signal": number}
        await asyncio.to_thread(lambda: list(control.ask(self.state, request)))

    async def patch(self, path: str, merge: Any) -> None:
        """Change an object by a merge patch."""
        status, answer = await self.mesh.api.request(
            "PATCH", path, body=merge, content_type="application/merge-patch+json"
        )
        assert status == 200, answer

    async def scale(self, namespace: str, name: str, replicas: int, *, within: float = 60) -> list[Manifest]:
        """So many pods of a Deployment, all ready; the pods."""
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
        await self.patch(path, {"spec": {"replicas": replicas}})
        await self.mesh.api.wait(
            path,
            lambda one: one["status"].get("availableReplicas", 0) == replicas == one["status"].get("replicas", 0),
            within=within,
            what=f"{replicas} pods of {name}",
        )
        listing = await self.mesh.api.get(
            f"/api/v1/namespaces/{namespace}/pods", params={"labelSelector": f"app={name}"}
        )
        return [pod for pod in listing["items"] if not pod["metadata"].get("deletionTimestamp")]

    async def lifetime(self, text: str) -> None:
        """Another lifetime of certificates, from the next renewal on."""
        path = "/apis/config.openservicemesh.io/v1alpha2/namespaces/meshlog-system/meshconfigs/osm-mesh-config"
        await self.patch(path, {"spec": {"certificate": {"serviceCertValidityDuration": text}}})

    async def proxies(self) -> dict[str, ProxyStatus]:
        """The newest report of every proxy whose pod is there, by `namespace/pod`."""
        listing = await self.mesh.api.get("/api/v1/pods")
        there = {pod["metadata"]["uid"] for pod in listing["items"]}
        return {f"{one.namespace}/{one.pod}": one for one in await self.desk.proxies() if one.uid in there}

    async def run_in(self, namespace: str, pod: str, argv: Sequence[str], *, within: float = 30) -> str:
        """What a command in that pod prints; it must succeed."""
        return await (await PodCommand.start(self.state, namespace, pod, argv)).finish(within=within)

    async def handshakes(self) -> tuple[int, int]:
        """How many succeeded and failed so far, over all sidecars."""
        good = bad = 0
        for who in PODS:
            stats = await self.admin(who, "stats?filter=ssl")
            good += sum(int(number) for number in _GOOD.findall(stats))
            bad += sum(int(number) for _, number in _BAD.findall(stats))
        return good, bad

    async def identity(self, who: tuple[str, str]) -> str:
        for one in json.loads(await self.admin(who, "certs"))["certificates"]:
            for leaf in one.get("cert_chain", []):
                for name in leaf.get("subject_alt_names", []):
                    if name.get("uri", "").startswith("spiffe://"):
                        return str(name["uri"])
        return ""

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncGenerator[dict[str, Any]]:
        """Purchases all the while; afterwards the counts are in what was yielded."""
        before = await self.handshakes()
        result: dict[str, Any] = {}
        command = await self.mesh.start(
            "bookbuyer", "bookbuyer", [*LOAD, f"{STORE}/buy-a-book", "--rate", "30", "--timeout", "20"]
        )
        await command.line(within=10)
        try:
            yield result
        finally:
            result.update(json.loads((await command.end_input(within=40)).splitlines()[-1]))
            after = await self.handshakes()
            result["handshakes"], result["failed handshakes"] = after[0] - before[0], after[1] - before[1]


@contextlib.asynccontextmanager
async def bookstore(state: Path) -> AsyncGenerator[Scene]:
    """A mesh of its own in that directory (`MESHLOG_STATE` names it already) with the bookstore on it, ended after."""
    meshlog = Command(state)
    up = meshlog("up")
    assert up.returncode == 0, up.stderr
    try:
        async with attached() as mesh, roots.certificate_client() as desk:
            for file in ("00-mesh", "10-workloads", "20-access", "30-database", "40-split"):
                await mesh.apply(read_manifests(MANIFESTS / f"{file}.yaml"))
            made = Scene(mesh, desk, state)

            async def works() -> bool:
                with contextlib.suppress(Exception):
                    command = await mesh.start(
                        "bookbuyer", "bookbuyer", [*LOAD, f"{STORE}/buy-a-book", "--requests", "5"]
                    )
                    return bool(json.loads((await command.finish(within=60)).splitlines()[-1])["ok"] == 5)
                return False

            await eventually(works, within=90, what="the bookstore sells")
            yield made
    finally:
        meshlog("down")


def none_failed(result: dict[str, Any], *, at_least: int = 50) -> None:
    assert result["requests"] == result["ok"] >= at_least, result
    assert result["failed handshakes"] == 0, result
    assert result["handshakes"] >= at_least, result
