"""The mesh started from exactly the objects that are printed for `kubectl apply`, or rendered by Helm."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.cluster import installation
from cli.embedded.pod_commands import PodCommand
from cli.kubernetes import kubeconfig
from cli.kubernetes.api_client import Api, Manifest, connect
from deploy.devcluster.launch.mesh_process import start
from tests.e2e.injected import container, part, pod, ready
from tests.e2e.rows import APPS
from tests.integration.install.test_lifecycle import meshlog
from tests.programs import helm_binary, needs_helm
from tests.waiting import eventually

pytestmark = [pytest.mark.devcluster, pytest.mark.nats, pytest.mark.envoy]

CHART = Path(__file__).parents[3] / "deploy" / "chart"
WITHIN = 60.0
MARK = "proxy_mark=1337"
"""The devcluster's pods have one user only."""
CONFIG = "/apis/config.openservicemesh.io/v1alpha2/namespaces/meshlog-system/meshconfigs/osm-mesh-config"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A cluster with nothing in it; yields its directory."""
    argv = [sys.executable, "-m", "deploy.devcluster"]
    mesh = start(tmp_path, argv, listeners={"api": ("127.0.0.1", 0)}, detached=False)
    yield tmp_path
    mesh.stop()


async def _output(*argv: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    return out.decode()


async def _printed(*settings: str) -> str:
    return await _output(sys.executable, "-m", "cli", "install", "--preset", "minimal", "--permissive", *settings)


async def _helm(*settings: str) -> str:
    values = ("-f", str(CHART / "values-minimal.yaml"), "-n", "meshlog-system", "--kube-version", "1.33")
    permissive = "mesh_config.traffic.enablePermissiveTrafficPolicyMode=true"
    flags = ("--include-crds", "--set", permissive, *settings)
    return await _output(helm_binary(), "template", "meshlog", str(CHART), *values, *flags)


@pytest.mark.parametrize(
    ("way", "settings"),
    [
        ("printed", ()),
        pytest.param("printed", ("--set", "native_sidecars=false"), marks=pytest.mark.long, id="classic sidecars"),
        pytest.param(
            "helm",
            (),
            marks=[
                pytest.mark.long,
                needs_helm,
            ],
        ),
    ],
)
async def test_a_mesh_of_exactly_these_objects_serves_a_call(state: Path, way: str, settings: tuple[str, ...]) -> None:
    """And its MeshConfig is there with what was asked for (row 31 of Open Service Mesh's list)."""
    render = _printed if way == "printed" else _helm
    manifests = [one for one in yaml.safe_load_all(await render("--set", MARK, *settings)) if one]
    native = "native_sidecars=false" not in settings
    path = state / "kubeconfig"
    async with connect(kubeconfig.read(path)) as api:
        await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "meshlog-system"}})
        for manifest in manifests:
            await api.apply(manifest)
        await installation.available(api, "meshlog-system", within=WITHIN, progress=lambda _: None)
        config = await api.get(CONFIG)
        assert config["spec"]["traffic"]["enablePermissiveTrafficPolicyMode"] is True
        assert config["spec"]["certificate"]["serviceCertValidityDuration"] == "24h"
        for one in _shop():
            await api.apply(one)
        await meshlog(path, "namespace", "add", "shop")
        for one in (pod("web", container("http:8080"), namespace="shop"), pod("caller", namespace="shop")):
            made = await _admitted(api, one)
            assert ("restartPolicy" in part(made, "envoy")) is native
        for name in ("web", "caller"):
            await api.wait(f"/api/v1/namespaces/shop/pods/{name}", ready, within=WITHIN, what=f"{name} is ready")

        async def served() -> bool:
            calls = json.dumps([["http", "http://web.shop.svc.cluster.local/"]])
            argv = [sys.executable, "-S", APPS, "calls", calls]
            command = await PodCommand.start(state, "shop", "caller", argv)
            return json.loads(await command.finish(within=20)) == ["200 web"]

        await eventually(served, within=WITHIN, what="the call is served")
        said = await meshlog(path, "verify", "connectivity", "--from-pod", "shop/caller", "--to-pod", "shop/web")
        assert "permissive mode" in said

        def accepted(one: dict[str, Any]) -> bool:
            told = one.get("status", {}).get("conditions", [])
            return any(each["type"] == "Accepted" and each["status"] == "True" for each in told)

        await api.wait(CONFIG, accepted, within=WITHIN, what="the MeshConfig says that it is in force")


def _shop() -> list[Manifest]:
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "client", "namespace": "shop"}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080, "name": "http"}]},
        },
    ]


async def _admitted(api: Api, manifest: Manifest) -> Manifest:
    """Create the pod once the injector has heard of the new member; until then it would come without a sidecar."""
    collection = await api.path_of(manifest, collection=True)

    async def heard() -> bool:
        _, plan = await api.request("POST", collection, body=manifest, params={"dryRun": "All"})
        found = [*plan["spec"].get("initContainers", []), *plan["spec"]["containers"]]
        return any(one["name"] == "envoy" for one in found)

    await eventually(heard, within=WITHIN, what="the injector knows the namespace")
    await api.apply(manifest)
    return await api.get(await api.path_of(manifest))
