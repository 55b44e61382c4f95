"""The ingestor in front of any API server: the devcluster's, and a real one if `KUBEBUILDER_ASSETS` holds its binaries.

Everything goes over the wire with a kubeconfig; nothing here may depend on which of the two it is.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from deploy.devcluster.apiserver import ApiServer
from services.ingestor.__main__ import Ingestor
from services.ingestor.conditions import Condition
from services.ingestor.facts import ObjectName, Projected
from services.ingestor.kinds import kinds
from services.ingestor.kube import KubernetesSource
from services.ingestor.reporter import Report
from services.ingestor.reporting import ReportWriter
from services.ingestor.settings import IngestorSettings
from services.ingestor.source import SourceError
from shared import events
from shared.eventlog.memory import MemoryLog
from tests.nats_server import free_port
from tests.waiting import eventually

CRD = Path(__file__).parents[3] / "deploy" / "crds" / "trafficsplits.split.smi-spec.io.yaml"
JSON = "application/json"
SPLITS = "/apis/split.smi-spec.io/v1alpha2/namespaces/shop/trafficsplits"
NOW = "2026-01-01T00:00:00Z"
KINDS = kinds(mesh_namespace="meshlog-system")
SPLIT: dict[str, Any] = {
    "apiVersion": "split.smi-spec.io/v1alpha2",
    "kind": "TrafficSplit",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"service": "web", "backends": [{"service": "v1", "weight": 1}]},
}


@asynccontextmanager
async def _devcluster(kubeconfig: Path) -> AsyncGenerator[None]:
    api = ApiServer(addresses=[("127.0.0.1", 0)])
    await api.start()
    await asyncio.to_thread(kubeconfig.write_text, api.kubeconfig(f"https://127.0.0.1:{api.bound[0][1]}"))
    try:
        yield
    finally:
        await api.stop()


@contextmanager
def _real(kubeconfig: Path) -> Generator[None]:
    """Etcd and kube-apiserver, as controller-runtime's test environment starts them."""
    assets, directory = Path(os.environ["KUBEBUILDER_ASSETS"]), kubeconfig.parent
    client, peer, port = free_port(), free_port(), free_port()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "sa.key").write_bytes(key.private_bytes(*form))
    (directory / "tokens.csv").write_text('secret,admin,admin,"system:masters"\n')
    etcd = [
        *(str(assets / "etcd"), "--data-dir", str(directory / "etcd"), "--unsafe-no-fsync"),
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
    ]
    server = [
        *(str(assets / "kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{client}"),
        *(f"--secure-port={port}", "--bind-address=127.0.0.1", f"--cert-dir={directory}"),
        *("--authorization-mode=RBAC", f"--token-auth-file={directory / 'tokens.csv'}"),
        *("--service-cluster-ip-range=10.0.0.0/24", "--disable-admission-plugins=ServiceAccount"),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={directory / 'sa.key'}",
        f"--service-account-signing-key-file={directory / 'sa.key'}",
    ]
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {
                        "name": "c",
                        "cluster": {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True},
                    }
                ],
                "users": [{"name": "u", "user": {"token": "secret"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    with (directory / "servers.log").open("wb") as log:
        processes = [subprocess.Popen(argv, stdout=log, stderr=log) for argv in (etcd, server)]
        try:
            yield
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait()


@pytest.fixture(params=["devcluster", "real"])
async def client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[tuple[KubernetesSource, Path]]:
    if request.param == "real" and not os.environ.get("KUBEBUILDER_ASSETS"):
        pytest.skip("KUBEBUILDER_ASSETS names no directory with etcd and kube-apiserver: not tried on a real one")
    kubeconfig = tmp_path / "kubeconfig"
    async with AsyncExitStack() as stack:
        if request.param == "real":
            stack.enter_context(_real(kubeconfig))
        else:
            await stack.enter_async_context(_devcluster(kubeconfig))
        source = await KubernetesSource.connect(str(kubeconfig))
        try:
            yield source, kubeconfig
        finally:
            await source.close()


async def test_what_is_applied_changed_and_deleted_is_in_the_log(client: tuple[KubernetesSource, Path]) -> None:
    source, kubeconfig = client

    async def post(path: str, body: dict[str, Any]) -> None:
        async def taken() -> bool:
            try:
                return await source.send("POST", path, body, JSON) in (201, 409)
            except SourceError:
                return False

        await eventually(taken, within=60.0, what=f"{path} takes an object")

    await post("/api/v1/namespaces", {"metadata": {"name": "shop"}})
    await post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", yaml.safe_load(CRD.read_text()))
    await post("/api/v1/namespaces/shop/serviceaccounts", {"metadata": {"name": "web"}})
    await post(SPLITS, SPLIT)
    log = MemoryLog()
    ingestor = Ingestor(source, log, IngestorSettings(cluster="c1", kubeconfig=str(kubeconfig)))
    parts = [ingestor.writer.run(), ingestor.issuer.run(), *(runner.run() for runner in ingestor.runners.values())]
    tasks = [asyncio.create_task(part) for part in parts]

    async def newest() -> dict[str, events.Event]:
        return {str(event.key): event async for event in _events(log)}

    try:
        await eventually(lambda: not ingestor.unready(), within=30.0, what="it is ready")
        found = await newest()
        assert {"Namespace shop", "ServiceAccount shop/web", "TrafficSplit shop/web", "TokenIssuer cluster"} <= set(
            found
        )
        uid = found["TrafficSplit shop/web"].uid
        said = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": NOW}
        stranger = "00000000-0000-0000-0000-000000000000"
        for whose, status in ((stranger, b""), (uid, b""), (uid, b'{"conditions": []}'), (stranger, b"{}")):
            told = Report(object=_item(uid=whose, status=status), conditions=(cast("Condition", said),), news=())
            outcome = await ReportWriter(source, {kind.name: kind for kind in KINDS}, now=lambda: NOW)(told)
            assert outcome == ("written" if whose == uid else "refused"), (whose, status)
        patch = "application/merge-patch+json"
        assert await source.send("PATCH", f"{SPLITS}/web", {"spec": {"service": "other"}}, patch) == 200

        async def changed() -> bool:
            return b'"other"' in bytes((await newest())["TrafficSplit shop/web"].object or b"")

        await eventually(changed, within=10.0, what="the change arrives")
        assert await source.send("DELETE", f"{SPLITS}/web", {}, JSON) == 200

        async def deleted() -> bool:
            return (await newest())["TrafficSplit shop/web"].operation == events.DELETED

        await eventually(deleted, within=10.0, what="the deletion arrives")
        history = [event async for event in _events(log) if event.kind == "TrafficSplit"]
        assert [event.operation for event in history] == ["applied", "applied", "deleted"]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _events(log: MemoryLog) -> AsyncGenerator[events.Event]:
    async for record in log.read():
        yield events.decode(record.payload)


def _item(*, uid: str, status: bytes) -> Projected:
    return Projected(
        kind="TrafficSplit",
        name=ObjectName("shop", "web"),
        uid=uid,
        resource_version="1",
        api_version="split.smi-spec.io/v1alpha2",
        body=b"",
        digest="",
        status=status,
    )
