"""An edge that is older than the compiler: it serves its last good version, reports why, and goes on by itself."""

from __future__ import annotations

import msgspec

from services.xds_edge.app import App
from services.xds_edge.settings import EdgeSettings
from shared.records import chunked_payload
from shared.records.snapshot import CDS, FORMAT, resource_hash
from tests.integration.xds_edge.names import CLASS, POD, STREAMS
from tests.integration.xds_edge.world import World
from tests.waiting import eventually

CHANGED = {**CLASS, CDS: {"c": b"newer"}}


async def publish_of_a_newer_build(mesh: World) -> int:
    """The next version, in a format that this build cannot read."""
    mesh.compiler.version += 1
    version = mesh.compiler.version
    log = await mesh.logs.open(STREAMS.snapshots)
    payload = msgspec.msgpack.encode({"format": FORMAT + 1, "version": version, "views": 7})
    drafts = chunked_payload.split(payload, STREAMS.snapshot_subject, version=version)
    await log.append(drafts, scope=STREAMS.snapshot_subject, after=await log.tip(STREAMS.snapshot_subject))
    return version


async def test_proxies_are_served_on_and_told_of_and_get_the_next_version_that_can_be_read(mesh: World) -> None:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        await client.follow_all()
        await client.drain(6)
        version = await publish_of_a_newer_build(mesh)

        async def told() -> str:
            return (await mesh.status(POD)).stuck

        needs = f"needs a newer build: version {version} has format {FORMAT + 1}, this build reads up to {FORMAT}"
        assert await eventually(told, within=5, what="the status says so") == f"{needs}; version 1 is served"
    async with mesh.client(edge, POD, "u1") as newcomer:
        await newcomer.send(CDS)
        held = await newcomer.receive()
        assert [(one.name, one.version) for one in held.resources] == [("c", resource_hash(CDS, CLASS[CDS]["c"]))]
        await newcomer.ack(held)
        await mesh.compiler.publish_alone({"web": CHANGED}, {POD: ("u1", "web")})
        changed = await newcomer.receive()
        assert [(one.name, one.version) for one in changed.resources] == [("c", resource_hash(CDS, b"newer"))]

        async def relieved() -> bool:
            return not await told()

        await eventually(relieved, within=5, what="the status says so no more")


async def test_an_edge_stays_ready_and_says_beside_what_it_needs(mesh: World) -> None:
    """If old edges were not ready, the first compiler that is upgraded would leave new proxies without any edge."""
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    readiness: dict[str, bool] = {}
    remarks: list[tuple[str, str]] = []
    edge = App(
        msgspec.convert({"token_file": str(mesh.token_file)}, EdgeSettings),
        instance="edge-9",
        ready=lambda name, ready, _why: readiness.update({name: ready}),
        remark=lambda name, text: remarks.append((name, text)),
    )
    mesh.spawn(edge.attach(mesh.logs, mesh.spawn), "attach")
    await eventually(lambda: readiness.get("snapshot"), within=5, what="it has a snapshot")
    await publish_of_a_newer_build(mesh)
    await eventually(lambda: remarks, within=5, what="it says what it needs")
    assert remarks == [("snapshot", edge.fleet.stuck)]
    assert readiness["snapshot"]
    await mesh.compiler.publish_alone({"web": CHANGED}, {POD: ("u1", "web")})
    await eventually(lambda: remarks[-1] == ("snapshot", ""), within=5, what="it says so no more")
