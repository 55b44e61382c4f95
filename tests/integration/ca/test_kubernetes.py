"""The CA's Kubernetes side against the devcluster's API server, over HTTPS."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import pytest

from deploy.devcluster.apiserver import ApiServer
from services.ca.authority import generate_authority
from services.ca.distribution import BundleDistributor, bundle_pem
from services.ca.keystore import SecretKeyStore
from services.ca.kube import KubeClient
from shared.certificates import TrustBundle
from shared.latest import Latest
from tests.nats_server import free_port
from tests.unit.ca.running import tasks
from tests.waiting import eventually

CREATE = partial(generate_authority, "cluster.local", clock=lambda: 1_700_000_000.0)
HOOKS = "mutatingwebhookconfigurations"


class Kubernetes:
    """A running API server and a client of it."""

    def __init__(self, server: ApiServer, client: KubeClient) -> None:
        self.cluster = server.cluster
        self.client = client


def write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


@contextlib.asynccontextmanager
async def running(path: Path) -> AsyncGenerator[Kubernetes, None]:
    port = free_port()
    server = ApiServer(addresses=[("127.0.0.1", port)])
    await server.start()
    try:
        write_private(path, server.kubeconfig(f"https://127.0.0.1:{port}"))
        client = await KubeClient.connect(path)
        try:
            yield Kubernetes(server, client)
        finally:
            await client.close()
    finally:
        await server.stop()


@pytest.fixture
async def kubernetes(tmp_path: Path) -> AsyncGenerator[Kubernetes, None]:
    async with running(tmp_path / "kubeconfig") as started:
        for name in ("meshlog-system", "bookstore"):
            await started.cluster.create("namespaces", {"metadata": {"name": name}})
        yield started


def bundle(serial: int, root: str) -> TrustBundle:
    return TrustBundle(trust_domain="cluster.local", serial=serial, roots=[root], sealing_keys=[])


async def test_the_keys_live_in_a_secret_that_is_created_once(kubernetes: Kubernetes) -> None:
    store = SecretKeyStore(kubernetes.client, namespace="meshlog-system")
    first = await store.load_or_create("cluster.local", CREATE)
    second = await store.load_or_create("cluster.local", CREATE)
    assert first.certificate == second.certificate
    assert await kubernetes.cluster.get("secrets", "meshlog-system", "meshlog-ca") is not None


async def test_a_config_map_is_written_and_follows_the_bundle(kubernetes: Kubernetes) -> None:
    latest: Latest[TrustBundle] = Latest()
    writing = BundleDistributor(kubernetes.client, bundle=latest, members=lambda: {"bookstore": "u"})
    for serial, root in ((1, "ROOT\n"), (2, "NEW\n")):
        latest.set(bundle(serial, root))
        assert await writing.reconcile_config_maps()
        held = await kubernetes.cluster.get("configmaps", "bookstore", "meshlog-trust-bundle")
        assert held is not None
        assert held["data"] == {"bundle.pem": root}


async def test_a_namespace_that_is_not_there_is_reported_and_retried(kubernetes: Kubernetes) -> None:
    latest: Latest[TrustBundle] = Latest()
    latest.set(bundle(1, "ROOT\n"))
    writing = BundleDistributor(kubernetes.client, bundle=latest, members=lambda: {"later": "u"})
    assert not await writing.reconcile_config_maps()
    await kubernetes.cluster.create("namespaces", {"metadata": {"name": "later"}})
    assert await writing.reconcile_config_maps()


async def test_a_labelled_webhook_gets_the_bundle_when_it_appears(kubernetes: Kubernetes) -> None:
    latest: Latest[TrustBundle] = Latest()
    latest.set(bundle(1, "ROOT\n"))
    writing = BundleDistributor(kubernetes.client, bundle=latest, members=dict)
    wanted = base64.b64encode(bundle_pem(bundle(1, "ROOT\n")).encode()).decode()

    def hook(name: str, labels: dict[str, str]) -> dict[str, object]:
        service = {"name": "meshlog-injector", "namespace": "meshlog-system", "path": "/mutate-pod-creation"}
        return {
            "metadata": {"name": name, "labels": labels},
            "webhooks": [
                {
                    "name": "inject.meshlog.io",
                    "clientConfig": {"service": service},
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                }
            ],
        }

    async def ca_bundle(name: str) -> str:
        held = await kubernetes.cluster.get(f"{HOOKS}.admissionregistration.k8s.io", "", name)
        assert held is not None
        return str(held["webhooks"][0]["clientConfig"].get("caBundle", ""))

    async with tasks(writing.run_webhooks(HOOKS)):
        for name, labels in (("ours", {"meshlog.io/inject-ca": "true"}), ("theirs", {})):
            await kubernetes.cluster.create(f"{HOOKS}.admissionregistration.k8s.io", hook(name, labels))

        async def written() -> bool:
            return await ca_bundle("ours") == wanted

        await eventually(written, within=10, what="the labelled webhook has the bundle")
        assert await ca_bundle("theirs") == ""
