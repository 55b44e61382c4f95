"""A rotation with half the fleet offline, with real Envoys: it waits for them, by name, and breaks nobody.

`make test-long ARGS=tests/e2e/test_rotation_offline.py`.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time

import pytest

from tests.e2e.bookstore import LOAD, STORE, Scene, none_failed
from tests.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats, pytest.mark.timeout(600)]

UNROUTABLE = """
import sys
from pyroute2 import IPRoute
verb, *addresses = sys.argv[1:]
with IPRoute() as network:
    for address in addresses:
        network.route(verb, dst=address + "/32", type="unreachable")
"""
"""Takes the way to some addresses from a pod, or gives it back."""


async def edge_addresses(scene: Scene) -> list[str]:
    """Of the edges' Service and of each edge."""
    path = "/api/v1/namespaces/meshlog-system"
    service = await scene.mesh.api.get(f"{path}/services/meshlog-xds-edge")
    pods = await scene.mesh.api.get(f"{path}/pods", params={"labelSelector": "app.kubernetes.io/name=meshlog-xds-edge"})
    return [service["spec"]["clusterIP"], *(pod["status"]["podIP"] for pod in pods["items"])]


async def waits_for(scene: Scene, pods: set[str]) -> bool:
    """Whether the rotation says that it waits for these, and for nobody else."""
    note = await scene.desk.note()
    named = {one.partition(":")[0] for one in note.waiting} if note is not None else set[str]()
    return note is not None and note.code == "rotation/distributing" and named == pods


async def test_half_the_fleet_that_is_cut_off_from_every_edge_goes_on_serving_and_is_waited_for(scene: Scene) -> None:
    """Those that are cut off still meet the others, with the root that they know."""
    apps = (("bookstore", "bookstore-v1"), ("bookwarehouse", "bookwarehouse"), ("database", "database"))
    # Longer than the test: whoever can renew nothing must not expire here, that is another test's matter.
    await scene.lifetime("30m")

    async def renewed() -> bool:
        return all(one.certificate_until > time.time() + 600 for one in (await scene.proxies()).values())

    await eventually(renewed, within=90, what="every proxy has a certificate that lasts")
    addresses = await edge_addresses(scene)
    half = {app: (await scene.mesh.pod(*app))["metadata"]["name"] for app in apps}
    assert 2 * len(half) >= len(await scene.proxies())
    names = {f"{namespace}/{pod}" for (namespace, _), pod in half.items()}
    async with scene.load() as result:
        for (namespace, _), pod in half.items():
            await scene.run_in(namespace, pod, ["python", "-c", UNROUTABLE, "add", *addresses])
        rotating = asyncio.ensure_future(scene.rotate())
        await eventually(lambda: waits_for(scene, names), within=60, what="it waits for those that are cut off")
        await asyncio.sleep(10)  # the two halves meet meanwhile, some three hundred times
        assert (await scene.desk.bundle()).members[0].name == "default"
        assert not rotating.done()
        for (namespace, _), pod in half.items():
            await scene.run_in(namespace, pod, ["python", "-c", UNROUTABLE, "del", *addresses])
        assert await asyncio.wait_for(rotating, 240) == "root-2"
        await asyncio.sleep(2)  # the load goes on a little with certificates of the new root alone
    none_failed(result)


async def test_half_the_fleet_that_is_frozen_is_waited_for_and_serves_when_it_thaws(scene: Scene) -> None:
    """As a laptop that sleeps, or a machine that is moved: no process of those pods runs while the others rotate."""
    buyers = await scene.scale("bookbuyer", "bookbuyer", 6)
    busy = (await scene.mesh.pod("bookbuyer", "bookbuyer"))["metadata"]["name"]
    frozen = [pod["metadata"]["name"] for pod in buyers if pod["metadata"]["name"] != busy]
    names = {f"bookbuyer/{pod}" for pod in frozen}

    async def connected() -> bool:
        proxies = await scene.proxies()
        return all(name in proxies and proxies[name].connected and proxies[name].bundle for name in names)

    await eventually(connected, within=60, what="all buyers are there")
    assert 2 * len(frozen) >= len(await scene.proxies()) - 1
    async with scene.load() as result:
        for pod in frozen:
            for container in ("envoy", "bookbuyer"):
                await scene.signal("bookbuyer", pod, container, signal.SIGSTOP)
        rotating = asyncio.ensure_future(scene.rotate())
        await eventually(lambda: waits_for(scene, names), within=60, what="it waits for those that are frozen")

        async def away() -> bool:
            proxies = await scene.proxies()
            return all(not proxies[name].connected for name in names)

        await eventually(away, within=120, what="the edges have given them up")
        assert (await scene.desk.bundle()).members[0].name == "default"
        assert not rotating.done()
        for pod in frozen:
            for container in ("envoy", "bookbuyer"):
                await scene.signal("bookbuyer", pod, container, signal.SIGCONT)
        assert await asyncio.wait_for(rotating, 240) == "root-2"
    none_failed(result)
    for pod in frozen:
        said = await scene.run_in("bookbuyer", pod, [*LOAD, f"{STORE}/buy-a-book", "--requests", "5"])
        assert json.loads(said.splitlines()[-1])["ok"] == 5, said
