"""API servers to test against: the devcluster's, and a real one if `KUBEBUILDER_ASSETS` holds its binaries.

What is tested so goes over the wire with a kubeconfig, and may not depend on which of the two it is.
docs/devcluster.md says how to come by the binaries.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from cli.kubernetes import kubeconfig as access
from cli.kubernetes.api_client import ApiRefusedError, connect
from deploy.devcluster.apiserver import ApiServer
from tests.ports import free_port
from tests.waiting import eventually

KINDS = ("devcluster", "real")


@asynccontextmanager
async def apiserver(which: str, directory: Path, *flags: str) -> AsyncGenerator[Path]:
    """An API server of this kind with nothing in it; yields an administrator's kubeconfig. `flags`: of the real one."""
    kubeconfig = directory / "kubeconfig"

    async def resolve(namespace: str, name: str, port: int) -> tuple[str, int]:
        """As kube-apiserver finds a webhook: a Service of type ExternalName leads out of the cluster."""
        service = await server.cluster.get("services", namespace, name)
        assert service is not None
        if "externalName" not in service["spec"]:
            raise ConnectionRefusedError(f"nobody is behind {namespace}/{name}")
        return service["spec"]["externalName"], port

    if which == "devcluster":
        server = ApiServer(addresses=[("127.0.0.1", 0)], resolve_service=resolve)
        await server.start()
        await asyncio.to_thread(kubeconfig.write_text, server.kubeconfig(f"https://127.0.0.1:{server.bound[0][1]}"))
        try:
            yield kubeconfig
        finally:
            await server.stop()
        return
    if not os.environ.get("KUBEBUILDER_ASSETS"):
        pytest.skip("KUBEBUILDER_ASSETS names no directory with etcd and kube-apiserver: not tried on a real one")
    with _real(kubeconfig, *flags):
        async with connect(access.read(kubeconfig)) as api:

            async def answers() -> bool:
                try:
                    return (await api.request("GET", "/readyz"))[0] == 200
                except ApiRefusedError:
                    return False

            await eventually(answers, within=60.0, what="the API server is ready")
        yield kubeconfig


@contextmanager
def _real(kubeconfig: Path, *flags: str) -> Generator[None]:
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
        *("--service-cluster-ip-range=10.0.0.0/16", "--disable-admission-plugins=ServiceAccount"),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={directory / 'sa.key'}",
        f"--service-account-signing-key-file={directory / 'sa.key'}",
        *flags,
    ]
    write_kubeconfig(kubeconfig, f"https://127.0.0.1:{port}", "secret")
    with (directory / "servers.log").open("wb") as log:
        processes = [subprocess.Popen(argv, stdout=log, stderr=log) for argv in (etcd, server)]
        try:
            yield
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait()


def write_kubeconfig(path: Path, server: str, token: str) -> None:
    """A kubeconfig that does not ask who the server is."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(content))
