"""Roots, providers and the trust domain change under load, with real Envoys: no handshake and no request fails.

Each purchase opens a connection of its own from the warehouse to the database, so that handshakes between old and new
certificates go on all the time. `make test-long`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from cli import embedded, roots
from cli.api import read_manifests
from cli.mesh import Mesh
from cli.rotating import Rotation, Wish
from shared.certificates import decode_note
from tests.e2e.command import Command
from tests.unit.ca.outside import OutsideCa
from tests.unit.ca.test_providers import sign_request
from tests.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats, pytest.mark.timeout(600)]

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
GOOD = re.compile(r"ssl\.handshake: ([0-9]+)$", re.MULTILINE)
BAD = re.compile(
    r"ssl\.(connection_error|fail_verify_error|fail_verify_san|fail_verify_no_cert): ([0-9]+)$", re.MULTILINE
)


class Scene:
    """A bookstore under load."""

    def __init__(self, mesh: Mesh, desk: roots.Desk) -> None:
        self.mesh = mesh
        self.desk = desk
        self.said: list[str] = []

    async def rotate(self, wish: Wish | None = None) -> str:
        return await Rotation(self.desk, self.said.append).forward(wish or Wish())

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

    async def handshakes(self) -> tuple[int, int]:
        """How many succeeded and failed so far, over all sidecars."""
        good = bad = 0
        for who in PODS:
            stats = await self.admin(who, "stats?filter=ssl")
            good += sum(int(number) for number in GOOD.findall(stats))
            bad += sum(int(number) for _, number in BAD.findall(stats))
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


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Scene]:
    meshlog = Command(tmp_path)
    monkeypatch.setenv("MESHLOG_STATE", str(tmp_path))
    up = meshlog("up")
    assert up.returncode == 0, up.stderr
    try:
        async with embedded.attached() as mesh, roots.desk() as desk:
            for file in ("00-mesh", "10-workloads", "20-access", "30-database", "40-split"):
                await mesh.apply(read_manifests(MANIFESTS / f"{file}.yaml"))
            made = Scene(mesh, desk)

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


async def test_a_root_rotation_fails_no_request(scene: Scene) -> None:
    async with scene.load() as result:
        assert await scene.rotate() == "root-2"
        bundle = await scene.desk.bundle()
    assert [member.name for member in bundle.members] == ["root-2"]
    none_failed(result)


async def test_the_trust_domain_changes_and_no_request_fails(scene: Scene) -> None:
    assert await scene.identity(("database", "database")) == "spiffe://cluster.local/ns/database/sa/database"
    async with scene.load() as result:
        await scene.rotate(Wish(trust_domain="example.org"))
        await asyncio.sleep(2)  # the load goes on a little with the new identities alone
    assert await scene.identity(("database", "database")) == "spiffe://example.org/ns/database/sa/database"
    assert set(await scene.desk.roots()) == {"root-2"}
    none_failed(result)


@pytest.mark.parametrize("service", ["meshlog-ca", "meshlog-xds-edge", "meshlog-compiler"])
async def test_a_kill_at_each_step_of_a_rotation_stops_nothing(scene: Scene, service: str) -> None:
    kills = 0

    async def kill_at_each_step() -> None:
        nonlocal kills
        certs = scene.desk.certs
        _, last = await certs.bounds()
        seen: set[str] = set()
        async for record in certs.follow(start=last + 1, subjects=scene.desk.streams.audit_subject("rotation")):
            step = decode_note(record.payload).code
            if step not in seen:
                seen.add(step)
                await scene.kill(service)
                kills += 1

    killing = asyncio.ensure_future(kill_at_each_step())
    try:
        async with scene.load() as result:
            await asyncio.wait_for(scene.rotate(Wish(trust_domain="example.org")), 300)
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
    assert kills >= 4, kills
    none_failed(result)


async def test_a_rotation_with_the_fleet_offline_waits_for_it_and_breaks_nothing(scene: Scene) -> None:
    """Without any edge the proxies go on with the old root, and so does the mesh until they are back."""
    async with scene.load() as result:
        await scene.edges(0)
        rotating = asyncio.ensure_future(scene.rotate())
        await eventually(lambda: any("(not connected now)" in one for one in scene.said), within=60, what="it waits")
        assert (await scene.desk.bundle()).members[0].name == "default"
        assert not rotating.done()
        await scene.edges(2)
        assert await asyncio.wait_for(rotating, 120) == "root-2"
    none_failed(result)


async def test_a_rotation_that_is_under_way_is_taken_back(scene: Scene) -> None:
    async with scene.load() as result:
        rotating = asyncio.ensure_future(scene.rotate())
        await eventually(lambda: "done: root-2: signs" in scene.said, within=60, what="the new root signs")
        rotating.cancel()
        await asyncio.gather(rotating, return_exceptions=True)
        assert await Rotation(scene.desk, scene.said.append).back() == "default"
    assert [member.name for member in (await scene.desk.bundle()).members] == ["default"]
    none_failed(result)


async def test_certificates_of_a_minute_are_renewed_for_five_minutes_under_load(scene: Scene) -> None:
    async with scene.load() as result:
        await asyncio.sleep(300)  # what is claimed is about five minutes
    none_failed(result, at_least=5000)


CERTIFICATE_REQUESTS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "certificaterequests.cert-manager.io"},
    "spec": {
        "group": "cert-manager.io",
        "scope": "Namespaced",
        "names": {
            "kind": "CertificateRequest",
            "listKind": "CertificateRequestList",
            "plural": "certificaterequests",
            "singular": "certificaterequest",
        },
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
}
RBAC = "rbac.authorization.k8s.io"
MAY_REQUEST = [
    {
        "apiVersion": f"{RBAC}/v1",
        "kind": "Role",
        "metadata": {"name": "meshlog-ca-cert-manager", "namespace": "meshlog-system"},
        "rules": [
            {
                "apiGroups": ["cert-manager.io"],
                "resources": ["certificaterequests"],
                "verbs": ["create", "get", "delete"],
            }
        ],
    },
    {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "meshlog-ca-cert-manager", "namespace": "meshlog-system"},
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "meshlog-ca-cert-manager"},
        "subjects": [{"kind": "ServiceAccount", "name": "meshlog-ca", "namespace": "meshlog-system"}],
    },
]


async def sign_certificate_requests(scene: Scene, outside: OutsideCa) -> None:
    """What cert-manager's controller does with a CA issuer."""
    collection = "/apis/cert-manager.io/v1/namespaces/meshlog-system/certificaterequests"
    while True:
        for one in (await scene.mesh.api.get(collection))["items"]:
            if not one.get("status", {}).get("certificate"):
                outside.now = time.time()
                await scene.mesh.api.request(
                    "PATCH",
                    f"{collection}/{one['metadata']['name']}/status",
                    body={"status": sign_request(outside, one["spec"])},
                    content_type="application/merge-patch+json",
                )
        await asyncio.sleep(0.2)  # a controller polls here, where a real one watches


async def test_the_provider_changes_to_cert_manager_and_no_request_fails(scene: Scene) -> None:
    outside = OutsideCa(now=time.time())
    await scene.mesh.apply([CERTIFICATE_REQUESTS, *MAY_REQUEST])
    await asyncio.sleep(1)  # the API serves a new kind a moment later
    signing = asyncio.ensure_future(sign_certificate_requests(scene, outside))
    try:
        async with scene.load() as result:
            provider = roots.provider_of("cert-manager", ["issuerName=mesh"])
            await asyncio.wait_for(scene.rotate(Wish(provider=provider)), 120)
            bundle = await scene.desk.bundle()
            await asyncio.sleep(2)  # the load goes on a little with certificates of the new root alone
    finally:
        signing.cancel()
        await asyncio.gather(signing, return_exceptions=True)
    assert bundle.roots == [outside.root_pem]
    assert outside.signed == 1
    none_failed(result)
