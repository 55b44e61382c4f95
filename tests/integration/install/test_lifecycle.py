"""Install, upgrade and uninstall on the devcluster, from exactly the objects that a real cluster would be given."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cli.kubernetes import kubeconfig
from cli.kubernetes.api_client import Api, connect
from deploy.devcluster.launch.mesh_process import start

pytestmark = [pytest.mark.devcluster, pytest.mark.nats, pytest.mark.envoy]

WITHIN = 60.0
CONFIG = "/apis/config.openservicemesh.io/v1alpha2/namespaces/meshlog-system/meshconfigs/osm-mesh-config"
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"containers": [{"name": "web", "image": "web", "command": ["sleep", "1000"]}]},
}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Path]:
    """A cluster with nothing in it; yields its kubeconfig."""
    argv = [sys.executable, "-m", "deploy.devcluster"]
    mesh = start(tmp_path, argv, listeners={"api": ("127.0.0.1", 0)}, detached=False)
    yield Path(mesh.facts["kubeconfig"])
    mesh.stop()


@asynccontextmanager
async def api_of(path: Path) -> AsyncGenerator[Api]:
    async with connect(kubeconfig.read(path)) as api:
        yield api


async def meshlog(path: Path, *argv: str) -> str:
    """Run the command; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", *argv),
        env={**os.environ, "KUBECONFIG": str(path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    return out.decode()


@pytest.mark.parametrize("preset", ["minimal", pytest.param("ha", marks=pytest.mark.long)])
async def test_a_mesh_comes_serves_changes_and_goes_without_a_trace(cluster: Path, preset: str) -> None:
    # The mark is the devcluster's own: its pods have one user only.
    settings = ("--preset", preset, "--set", "proxy_mark=1337", "--timeout", str(WITHIN))
    await meshlog(cluster, "install", "--apply", *settings)
    async with api_of(cluster) as api:
        before = await api.get("/api/v1/namespaces/meshlog-system/secrets/meshlog-nats-ca")
        await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        await meshlog(cluster, "namespace", "add", "shop")

        async def admitted() -> None:
            """The injector hears of the new member by the log; until then a pod comes without its sidecar."""
            async with asyncio.timeout(WITHIN):
                while True:
                    await api.apply(POD)
                    made = await api.get("/api/v1/namespaces/shop/pods/web")
                    if any(one["name"] == "envoy" for one in made["spec"].get("initContainers", [])):
                        return
                    await api.delete(POD)
                    await api.wait(
                        "/api/v1/namespaces/shop/pods", lambda all_: not all_["items"], within=20, what="gone"
                    )

        await admitted()
        ready = "/api/v1/namespaces/shop/pods/web"
        await api.wait(ready, _is_ready, within=WITHIN, what="the pod and its sidecar are ready")
        await meshlog(cluster, "verify", "control-plane")
        await api.delete(await api.get(CONFIG))
        changed = await meshlog(cluster, "upgrade", *settings, "--set", "autoscale=0", "--set", "edges=2")
        assert ("HorizontalPodAutoscaler" in changed) == (preset == "ha")
        after = await api.get("/api/v1/namespaces/meshlog-system/secrets/meshlog-nats-ca")
        assert after["data"] == before["data"], "an upgrade keeps the log's passwords"
        edges = await api.get("/apis/apps/v1/namespaces/meshlog-system/deployments/meshlog-xds-edge")
        assert edges["status"]["readyReplicas"] == 2
        assert (await api.get(CONFIG))["spec"]["traffic"] == {"enablePermissiveTrafficPolicyMode": False}
        await meshlog(cluster, "uninstall", "mesh", "--force", "--delete-namespace", "-a")
        await api.wait("/api/v1/namespaces", _without_ours, within=WITHIN, what="the namespace is gone")
        labels = (await api.get("/api/v1/namespaces/shop"))["metadata"]["labels"]
        assert set(labels) == {"kubernetes.io/metadata.name"}
        definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        assert (await api.get(definitions))["items"] == []
        roles = (await api.get("/apis/rbac.authorization.k8s.io/v1/clusterroles"))["items"]
        assert not [one for one in roles if "meshlog" in one["metadata"]["name"]]


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = {one["type"]: one["status"] for one in pod.get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True"


def _without_ours(listing: dict[str, Any]) -> bool:
    return "meshlog-system" not in [one["metadata"]["name"] for one in listing["items"]]
