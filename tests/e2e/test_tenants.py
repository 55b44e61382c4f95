"""A tenant's objects take no request of another namespace, on a whole mesh: the capture of `tests.attacks.tenants`."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from shared.errors import MeshlogError
from tests.attacks.tenants import capture
from tests.e2e.injected import container, placed, pod, ready
from tests.e2e.rows import Rows, config

pytestmark = [pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats, pytest.mark.timeout(170)]

PORT = 8000


@pytest.fixture
async def places(app: Rows) -> AsyncGenerator[dict[str, tuple[str, str]]]:
    """A web server outside of the mesh, and a tenant's own in the namespace `near`: name → address, uid."""
    injected = {"sidecar-injection": "enabled"}
    web = pod("web", container(f"http:{PORT}"), namespace="far", account="default")
    thief = pod("thief", container(f"http:{PORT}"), namespace="near", account="default", annotations=injected)
    async with placed(app, web, thief):
        found: dict[str, tuple[str, str]] = {}
        for where, name in (("far", "web"), ("near", "thief")):
            made = await app.mesh.api.wait(
                f"/api/v1/namespaces/{where}/pods/{name}", ready, within=60, what=f"{name} is ready"
            )
            found[name] = (made["status"]["podIP"], made["metadata"]["uid"])
        yield found


async def test_a_slice_with_a_foreign_address_captures_no_request(
    app: Rows, places: dict[str, tuple[str, str]]
) -> None:
    """The tenant's own address works as it should, so that the objects are known to do something."""
    (web, _), (mine, uid) = places["web"], places["thief"]

    def objects(address: str) -> list[dict[str, object]]:
        return capture(
            address,
            namespace="near",
            app="thief",
            account="default",
            pod=("thief", uid),
            victim=("app", "client"),
            port=PORT,
        )

    async def answers(address: str) -> set[str]:
        posts = [["http", f"http://{address}:{PORT}/", "POST", {"authorization": "Bearer s3cret"}]] * 10
        return set(await app.call("client", *posts))

    await app.change(put=[config(traffic={"enableEgress": True})])
    try:
        assert await answers(web) == {"200 web"}
        async with app.policy(*objects(mine)):
            assert await answers(mine) == {"200 thief"}
        async with app.policy(*objects(web)):
            assert await answers(web) == {"200 web"}
    finally:
        await app.change(put=[config()])


async def test_a_cluster_address_of_another_namespace_is_refused(app: Rows, places: dict[str, tuple[str, str]]) -> None:
    taken = (await app.mesh.api.get("/api/v1/namespaces/app/services/server"))["spec"]["clusterIP"]
    claim = capture(
        "",
        namespace="near",
        app="thief",
        account="default",
        pod=("thief", places["thief"][1]),
        victim=("app", "client"),
        cluster_ip=taken,
    )[1]
    with pytest.raises(MeshlogError, match="already allocated"):
        await app.mesh.api.apply(claim)
