"""Roots, providers and the trust domain change under load, with real Envoys: no handshake and no request fails.

`make test-long ARGS=tests/e2e/test_rotation.py`.
"""

from __future__ import annotations

import asyncio

import pytest

from cli.certificates.rotation import RootRotation, RotationGoal
from shared.records.certificate_records import decode_note
from tests.e2e.bookstore import Scene, none_failed
from tests.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats, pytest.mark.timeout(600)]


async def test_a_root_rotation_fails_no_request(scene: Scene) -> None:
    async with scene.load() as result:
        assert await scene.rotate() == "root-2"
        bundle = await scene.desk.bundle()
    assert [member.name for member in bundle.members] == ["root-2"]
    none_failed(result)


async def test_the_trust_domain_changes_and_no_request_fails(scene: Scene) -> None:
    assert await scene.identity(("database", "database")) == "spiffe://cluster.local/ns/database/sa/database"
    async with scene.load() as result:
        await scene.rotate(RotationGoal(trust_domain="example.org"))
        await asyncio.sleep(2)  # the load goes on a little with the new identities alone
    assert await scene.identity(("database", "database")) == "spiffe://example.org/ns/database/sa/database"
    assert set(await scene.desk.roots()) == {"root-2"}
    none_failed(result)


@pytest.mark.parametrize("service", ["meshlog-ca", "meshlog-xds-edge", "meshlog-compiler"])
async def test_a_kill_at_each_step_of_a_rotation_stops_nothing(scene: Scene, service: str) -> None:
    kills = 0

    async def kill_at_each_step() -> None:
        nonlocal kills
        certs = scene.desk.certs
        _, last = await certs.bounds()
        seen: set[str] = set()
        async for record in certs.follow(start=last + 1, subjects=scene.desk.streams.audit_subject("rotation")):
            step = decode_note(record.payload).code
            if step not in seen:
                seen.add(step)
                await scene.kill(service)
                kills += 1

    killing = asyncio.ensure_future(kill_at_each_step())
    try:
        async with scene.load() as result:
            await asyncio.wait_for(scene.rotate(RotationGoal(trust_domain="example.org")), 300)
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
    assert kills >= 4, kills
    none_failed(result)


async def test_a_rotation_with_the_fleet_offline_waits_for_it_and_breaks_nothing(scene: Scene) -> None:
    """Without any edge the proxies go on with the old root, and so does the mesh until they are back."""
    async with scene.load() as result:
        await scene.edges(0)
        rotating = asyncio.ensure_future(scene.rotate())
        await eventually(lambda: any("(not connected now)" in one for one in scene.said), within=60, what="it waits")
        assert (await scene.desk.bundle()).members[0].name == "default"
        assert not rotating.done()
        await scene.edges(2)
        assert await asyncio.wait_for(rotating, 120) == "root-2"
    none_failed(result)


async def test_a_rotation_that_is_under_way_is_taken_back(scene: Scene) -> None:
    async with scene.load() as result:
        rotating = asyncio.ensure_future(scene.rotate())
        await eventually(lambda: "done: root-2: signs" in scene.said, within=60, what="the new root signs")
        rotating.cancel()
        await asyncio.gather(rotating, return_exceptions=True)
        assert await RootRotation(scene.desk, scene.said.append).back() == "default"
    assert [member.name for member in (await scene.desk.bundle()).members] == ["default"]
    none_failed(result)


async def test_certificates_of_a_minute_are_renewed_for_five_minutes_under_load(scene: Scene) -> None:
    async with scene.load() as result:
        await asyncio.sleep(300)  # what is claimed is about five minutes
    none_failed(result, at_least=5000)
