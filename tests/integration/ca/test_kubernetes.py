"""The CA's Kubernetes side against the devcluster's API server, over HTTPS."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import pytest
import yaml

from deploy.devcluster.apiserver import ApiServer
from deploy.install.profile import Profile
from deploy.install.roles import roles
from services.ca.core.kube_api import KubeError
from services.ca.keys.authority import generate_authority
from services.ca.keys.secret_store import SecretKeyStore
from services.ca.kubernetes.bundle_distributor import CLUSTER_BUNDLES, BundleDistributor, bundle_pem
from services.ca.kubernetes.client import KubeClient
from shared.records.certificate_records import TrustBundle
from shared.service.watch_value import Latest
from tests.ports import free_port
from tests.unit.ca.running import tasks
from tests.waiting import eventually

CREATE = partial(generate_authority, "cluster.local", clock=lambda: 1_700_000_000.0)
HOOKS = "mutatingwebhookconfigurations"


class Kubernetes:
    """A running API server and a client of it."""

    def __init__(self, server: ApiServer, client: KubeClient, directory: Path) -> None:
        self.server = server
        self.cluster = server.cluster
        self.client = client
        self.directory = directory

    @contextlib.asynccontextmanager
    async def as_the_ca(self, profile: Profile) -> AsyncGenerator[KubeClient]:
        """A client with the rights that an installation gives the CA, and no others."""
        home = {"namespace": profile.namespace}
        await self.cluster.create("serviceaccounts", {"metadata": {"name": "meshlog-ca", **home}})
        await self.cluster.transact(roles(profile), manager="meshlog")
        config = yaml.safe_load(self.server.kubeconfig(f"https://127.0.0.1:{self.server.bound[0][1]}"))
        config["users"][0]["user"] = {"token": self.server.issue_token(profile.namespace, "meshlog-ca").token}
        write_private(self.directory / "ca.kubeconfig", yaml.safe_dump(config))
        client = await KubeClient.connect(self.directory / "ca.kubeconfig")
        try:
            yield client
        finally:
            await client.close()


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
            yield Kubernetes(server, client, path.parent)
        finally:
            await client.close()
    finally:
        await server.stop()


@pytest.fixture
async def kubernetes(tmp_path: Path) -> AsyncGenerator[Kubernetes, None]:
    async with running(tmp_path / "kubeconfig") as started:
        for name in ("meshlog-system", "other-system", "bookstore"):
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


CLUSTER_TRUST_BUNDLES = {
    "metadata": {
        "name": "clustertrustbundles.certificates.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes/enhancements/issues/3257"},
    },
    "spec": {
        "group": "certificates.k8s.io",
        "scope": "Cluster",
        "names": {"kind": "ClusterTrustBundle", "plural": "clustertrustbundles", "singular": "clustertrustbundle"},
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "required": ["spec"],
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["trustBundle"],
                                "properties": {"signerName": {"type": "string"}, "trustBundle": {"type": "string"}},
                            }
                        },
                    }
                },
            }
        ],
    },
}


async def test_the_cluster_trust_bundle_is_kept_where_the_api_has_one_with_the_rights_for_this_name_alone(
    kubernetes: Kubernetes,
) -> None:
    """An API without the kind is no failure; with it, the bundle follows, and no other one could be written."""
    resource = "clustertrustbundles.certificates.k8s.io"
    latest: Latest[TrustBundle] = Latest()
    latest.set(bundle(1, "ROOT\n"))
    async with kubernetes.as_the_ca(Profile(cluster_trust_bundle="meshlog")) as client:
        writing = BundleDistributor(client, bundle=latest, members=dict, cluster_bundle="meshlog")
        assert await writing.reconcile_config_maps()
        await kubernetes.cluster.create("customresourcedefinitions.apiextensions.k8s.io", CLUSTER_TRUST_BUNDLES)

        async def served() -> bool:
            return (await kubernetes.client.request("GET", CLUSTER_BUNDLES)).status == 200

        await eventually(served, within=5, what="the API has the kind")
        for serial, root in ((2, "BOTH\nROOTS\n"), (3, "NEW\n")):
            latest.set(bundle(serial, root))
            assert await writing.reconcile_config_maps()
            held = await kubernetes.cluster.get(resource, "", "meshlog")
            assert held is not None
            assert held["spec"] == {"trustBundle": root}
        other = BundleDistributor(client, bundle=latest, members=dict, cluster_bundle="others")
        assert not await other.reconcile_config_maps()
        assert await kubernetes.cluster.get(resource, "", "others") is None


async def test_a_root_may_keep_its_keys_in_the_secret_that_was_named_and_in_no_other(kubernetes: Kubernetes) -> None:
    async with kubernetes.as_the_ca(Profile(root_secret="corporate-root")) as client:
        own = SecretKeyStore(client, namespace="meshlog-system", name="corporate-root")
        first = await own.load_or_create("cluster.local", CREATE)
        await own.replace(CREATE())
        assert (await own.load_or_create("cluster.local", CREATE)).certificate != first.certificate
        with pytest.raises(KubeError, match="403"):
            await SecretKeyStore(client, namespace="meshlog-system", name="theirs").load("cluster.local")


async def test_cert_manager_may_be_asked_where_the_installation_says_so(kubernetes: Kubernetes) -> None:
    path = "/apis/cert-manager.io/v1/namespaces/meshlog-system/certificaterequests"
    async with kubernetes.as_the_ca(Profile(cert_manager=True)) as client:
        allowed = await client.request("POST", path, body={})
    # The API has no such kind here, which only a client with the right to write it can detect.
    assert allowed.status == 404
    async with kubernetes.as_the_ca(Profile(mesh_name="other", namespace="other-system")) as client:
        refused = await client.request("POST", path.replace("meshlog-system", "other-system"), body={})
    assert refused.status == 403


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
