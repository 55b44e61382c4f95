"""Single pods for tests of the injector on the mesh of `rows`: made, waited for, and gone at the end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from cli.kubernetes.api_client import Manifest
from tests.e2e.rows import APPS, Rows
from tests.waiting import eventually

WITHIN = 40.0
Json = dict[str, Any]


def container(serves: str = "", *, name: str = "main", **more: Any) -> Json:
    """A container that serves what `apps.py serve` is told, or only waits."""
    command = [sys.executable, APPS, "serve", *serves.split()] if serves else ["sleep", "infinity"]
    return {"name": name, "image": "any", "command": command, **more}


def pod(
    name: str,
    *containers: Json,
    annotations: Mapping[str, str] | None = None,
    account: str = "client",
    namespace: str = "app",
    **spec: Any,
) -> Manifest:
    """A pod of its own."""
    marks = {f"openservicemesh.io/{key}": value for key, value in (annotations or {}).items()}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}, "annotations": marks},
        "spec": {
            "serviceAccountName": account,
            "terminationGracePeriodSeconds": 1,
            "containers": list(containers) or [container()],
            **spec,
        },
    }


def part(of: Manifest, name: str) -> Json:
    """A container of a pod, an init container too."""
    spec = of["spec"]
    (found,) = [one for one in [*spec.get("initContainers", []), *spec["containers"]] if one["name"] == name]
    return found


def conditions(of: Manifest) -> dict[str, str]:
    """Condition → status."""
    return {one["type"]: one["status"] for one in of.get("status", {}).get("conditions", [])}


def ready(of: Manifest) -> bool:
    """Whether the kubelet says so."""
    return conditions(of).get("Ready") == "True"


async def planned(app: Rows, manifest: Manifest) -> Manifest:
    """What admission makes of a pod; nothing is stored."""
    path = await app.mesh.api.path_of(manifest, collection=True)
    status, made = await app.mesh.api.request("POST", path, body=manifest, params={"dryRun": "All"})
    assert status == 201, made
    return made


async def state(app: Rows, name: str, condition: Callable[[Manifest], bool], *, what: str) -> Manifest:
    """The pod, once the condition holds."""
    return await app.mesh.api.wait(
        f"/api/v1/namespaces/app/pods/{name}", condition, within=WITHIN, what=f"{name} {what}"
    )


@contextlib.asynccontextmanager
async def placed(app: Rows, *manifests: Manifest) -> AsyncGenerator[None]:
    """These objects while the context lasts; pods among them are really gone afterwards."""
    await app.mesh.apply(manifests)
    try:
        yield
    finally:
        for manifest in manifests:
            await app.mesh.api.delete(manifest)
        for manifest in manifests:
            if manifest["kind"] == "Pod":
                await gone(app, await app.mesh.api.path_of(manifest))


async def gone(app: Rows, path: str) -> None:
    """Wait until there is nothing at the path."""

    async def missing() -> bool:
        return (await app.mesh.api.request("GET", path))[0] == 404

    await eventually(missing, within=WITHIN, what=f"{path} is gone")


@contextlib.asynccontextmanager
async def configured(app: Rows, config: Manifest, before: Manifest, *, shows: str) -> AsyncGenerator[None]:
    """A MeshConfig while the context lasts: from the moment that the injector's work shows it, back to `before`."""

    async def heard() -> bool:
        return shows in str(await planned(app, pod("probe")))

    await app.mesh.apply([config])
    try:
        await eventually(heard, within=WITHIN, what=f"a new pod shows {shows}")
        yield
    finally:
        await app.mesh.apply([before])

        async def unheard() -> bool:
            return not await heard()

        await eventually(unheard, within=WITHIN, what=f"a new pod shows {shows} no more")


async def warnings(app: Rows, name: str) -> set[str]:
    """Messages of the warnings about a pod."""
    listing: Sequence[Json] = (await app.mesh.api.get("/api/v1/namespaces/app/events"))["items"]
    about = [one for one in listing if one["involvedObject"]["name"] == name and one["type"] == "Warning"]
    return {f"{one['reason']}: {one['message']}" for one in about}
