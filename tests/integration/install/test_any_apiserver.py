"""What is installed is valid to any API server: the devcluster's, and a real one if `KUBEBUILDER_ASSETS` holds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import yaml

from cli.cluster import installation
from cli.kubernetes import kubeconfig as access
from cli.kubernetes.api_client import Api, Manifest, connect
from deploy.install.profile import PRESETS
from tests.apiservers import KINDS, apiserver
from tests.programs import helm_binary, needs_helm
from tests.waiting import eventually

CHART = Path(__file__).parents[3] / "deploy" / "chart"


@pytest.fixture(params=KINDS)
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Api]:
    async with apiserver(request.param, tmp_path) as kubeconfig, connect(access.read(kubeconfig)) as made:
        yield made


async def _take(api: Api, manifests: list[Manifest]) -> None:
    """Each object is taken as it is, with no field that the server does not know."""
    for manifest in manifests:
        version = manifest["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"

        async def served(root: str = root, kind: str = manifest["kind"]) -> bool:
            status, listing = await api.request("GET", root)
            return status == 200 and any(one["kind"] == kind for one in listing["resources"])

        await eventually(served, within=30.0, what=f"{manifest['kind']} is served")
        status, answer = await api.request(
            "PATCH",
            await api.path_of(manifest),
            body=manifest,
            content_type="application/apply-patch+yaml",
            params={"fieldManager": "test", "fieldValidation": "Strict"},
        )
        assert status in (200, 201), (manifest["kind"], manifest["metadata"]["name"], answer)


@pytest.mark.parametrize("preset", PRESETS)
async def test_every_object_of_an_installation_is_valid(api: Api, preset: str) -> None:
    await _take(api, installation.rendered(PRESETS[preset], permissive=True))
    assert [one["name"] for one in await installation.meshes(api)] == ["meshlog"]


@needs_helm
async def test_every_object_of_the_chart_is_valid(api: Api) -> None:
    argv = [
        helm_binary(),
        "template",
        "meshlog",
        str(CHART),
        "-n",
        "meshlog-system",
        "--include-crds",
        "--kube-version",
        "1.33",
    ]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "meshlog-system"}}
    await _take(api, [namespace, *(one for one in yaml.safe_load_all(out) if one)])
