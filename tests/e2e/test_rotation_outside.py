"""The mesh moves to a CA outside under load, with real Envoys: to cert-manager; to Vault, through its outage, and back.

Both are played: cert-manager by a controller that answers CertificateRequests, Vault by a server in a pod of its own
that speaks the documented HTTP API. `make test-long ARGS=tests/e2e/test_rotation_outside.py`.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cli.certificates import roots
from cli.certificates.rotation import RotationGoal
from cli.kubernetes.api_client import Manifest
from tests.e2e.bookstore import Scene, none_failed
from tests.unit.ca.outside import OutsideCa
from tests.unit.ca.test_providers import sign_request

pytestmark = [pytest.mark.long, pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats, pytest.mark.timeout(600)]

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
            await asyncio.wait_for(scene.rotate(RotationGoal(provider=provider)), 120)
            bundle = await scene.desk.bundle()
            await asyncio.sleep(2)  # the load goes on a little with certificates of the new root alone
    finally:
        signing.cancel()
        await asyncio.gather(signing, return_exceptions=True)
    assert bundle.roots == [outside.root_pem]
    assert outside.signed == 1
    none_failed(result)


def vault_pod(outside: OutsideCa) -> list[Manifest]:
    """A Vault that keeps its root over restarts, with the token `s.root`."""
    labels = {"app": "vault"}
    repository = str(Path(__file__).parents[2])
    container = {
        "name": "vault",
        "image": "any",
        "command": [sys.executable, "-m", "tests.unit.ca.outside", "8200"],
        "env": [
            {"name": "PYTHONPATH", "value": repository},
            {"name": "OUTSIDE_CA", "value": outside.keep.decode()},
        ],
        "ports": [{"containerPort": 8200}],
        "readinessProbe": {"tcpSocket": {"port": 8200}, "periodSeconds": 1},
    }
    spec: dict[str, Any] = {
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
        },
    }
    named = {"name": "vault", "namespace": "vault"}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "vault"}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": named, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": named,
            "spec": {"selector": labels, "ports": [{"port": 8200}]},
        },
    ]


async def test_the_mesh_moves_to_vault_lives_through_its_outage_and_moves_back(scene: Scene) -> None:
    """Certificates live 45 seconds: while Vault is away for 70, and the CA is killed, all are renewed once or more."""
    outside = OutsideCa(now=time.time())
    await scene.mesh.apply(vault_pod(outside))
    await scene.scale("vault", "vault", 1)
    token = {"data": {"vault-token": base64.b64encode(b"s.root").decode()}}
    await scene.patch("/api/v1/namespaces/meshlog-system/secrets/meshlog-ca", token)
    settings = ["host=vault.vault.svc.cluster.local", "token.secretKeyRef.name=meshlog-ca"]
    provider = roots.provider_of("vault", [*settings, "token.secretKeyRef.key=vault-token"])
    async with scene.load() as result:
        assert await asyncio.wait_for(scene.rotate(RotationGoal(provider=provider)), 150) == "root-2"
        assert (await scene.desk.bundle()).roots == [outside.root_pem]
        await scene.scale("vault", "vault", 0)
        away = time.time()
        await scene.kill("meshlog-ca")
        await asyncio.sleep(70)  # what is claimed is about an outage longer than a certificate lives
        proxies = await scene.proxies()
        assert len(proxies) >= 6
        for name, one in proxies.items():
            # Forty-five seconds long, and with most of that before it: signed while Vault was away.
            assert one.certificate_until > away + 70, name
        bundle = await scene.desk.bundle()
        assert [member.name for member in bundle.members] == ["root-2"]
        await scene.scale("vault", "vault", 1)
        assert await asyncio.wait_for(scene.rotate(RotationGoal(provider={"builtin": {}})), 150) == "root-3"
        await asyncio.sleep(2)  # the load goes on a little with certificates of the new root alone
    assert outside.root_pem not in (await scene.desk.bundle()).roots
    none_failed(result, at_least=2000)
