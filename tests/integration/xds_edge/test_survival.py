"""What an edge outlives: restarts, a log that is gone or damaged, clients that do not read."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

from shared.records.snapshot import CDS, EDS, LDS, RDS, SDS
from shared.streams.memory import MemoryLogs
from tests.integration.xds_edge.names import CLASS, POD, STREAMS
from tests.integration.xds_edge.world import World
from tests.waiting import eventually


async def test_a_warm_reconnect_after_a_restart_sends_nothing(mesh: World) -> None:
    version = await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        await client.follow_all()
        await client.drain(6)
        held = client.held
    await mesh.kill_edge(edge)
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        await client.follow_all(**held)
        with pytest.raises(TimeoutError):
            await client.receive(within=0.1)
        await mesh.acked(POD, version)
    assert edge.counters.pushes == 0


async def test_an_edge_serves_from_disk_with_everything_else_down(mesh: World) -> None:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        await client.send(CDS)
        await client.ack(await client.receive())
    await mesh.stop_edge(edge)
    dead = MemoryLogs()
    for name in (STREAMS.events, STREAMS.snapshots, STREAMS.keyframes, STREAMS.certs, STREAMS.csrs, STREAMS.status):
        dead.stream(name).down()
    edge = await mesh.edge(logs=dead, confirm_within=0.05)
    await eventually(lambda: edge.readiness.may_serve, within=5, what="the edge trusts its disk")
    async with mesh.client(edge, POD, "u1") as client:
        await client.send(CDS)
        assert [resource.name for resource in (await client.receive()).resources] == ["c"]
        await client.send(SDS, resource_names_subscribe=["trust-bundle"])
        assert [resource.name for resource in (await client.receive()).resources] == ["trust-bundle"]


async def test_a_proxy_with_newer_state_is_left_alone_by_an_edge_that_has_only_its_disk(mesh: World) -> None:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    await eventually(lambda: edge.fleet.version == 1, within=5, what="the edge has version 1")
    await mesh.stop_edge(edge)
    newer = await mesh.compiler.publish({"web": {**CLASS, CDS: {"c": b"newer"}}}, {POD: ("u1", "web")})
    for name in (STREAMS.snapshots, STREAMS.keyframes):
        mesh.memory(name).down()
    edge = await mesh.edge(confirm_within=0.05)
    await eventually(lambda: edge.readiness.may_serve, within=5, what="the edge trusts its disk")
    held = {"c": next(iter(mesh.compiler.snapshot.views["web"][CDS].values()))}
    async with mesh.client(edge, POD, "u1") as client:
        await client.send(CDS, initial_resource_versions=held)
        with pytest.raises(TimeoutError):
            await client.receive(within=0.1)
        for name in (STREAMS.snapshots, STREAMS.keyframes):
            mesh.memory(name).up()
        for type_url, names in ((LDS, []), (RDS, ["r"]), (EDS, ["c"])):
            await client.send(type_url, resource_names_subscribe=names)
        await client.drain(3)
        await mesh.acked(POD, newer)
        assert client.held.get(CDS) is None


async def test_a_keyframe_and_the_commits_after_it_make_the_snapshot(mesh: World) -> None:
    for number in range(5):
        await mesh.compiler.publish({"web": {CDS: {"c": str(number).encode()}}}, {POD: ("u1", "web")})
        if number == 2:
            await mesh.compiler.keyframe()
    for sequence in (1, 2):
        mesh.memory(STREAMS.snapshots).lose(sequence)
    edge = await mesh.edge()
    await eventually(lambda: edge.fleet.version == 5, within=5, what="the edge is at version 5")


async def test_a_hole_in_the_commits_leads_back_to_a_keyframe(mesh: World) -> None:
    await mesh.compiler.publish({"web": {CDS: {"c": b"1"}}}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    await eventually(lambda: edge.fleet.confirmed, within=5, what="the edge is caught up")
    snapshots = mesh.memory(STREAMS.snapshots)
    snapshots.down()
    # Two commits that the edge does not see before the first of them is lost.
    for body in (b"2", b"3"):
        snapshots.up()
        await mesh.compiler.publish({"web": {CDS: {"c": body}}}, {POD: ("u1", "web")})
        snapshots.down()
    snapshots.lose(2)
    snapshots.up()
    await eventually(lambda: edge.behind, within=5, what="the edge notices")
    assert edge.fleet.version == 1
    await mesh.compiler.keyframe()
    await mesh.compiler.publish({"web": {CDS: {"c": b"4"}}}, {POD: ("u1", "web")})
    await eventually(lambda: edge.fleet.version == 4, within=5, what="the keyframe and the commit after it")
    assert not edge.behind
    assert edge.gaps == 1


async def test_a_commit_that_stands_alone_leads_beyond_a_hole(mesh: World) -> None:
    """What a compiler publishes that could not read its own commits back: a new epoch."""
    await mesh.compiler.publish({"web": {CDS: {"c": b"1"}}}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    await eventually(lambda: edge.fleet.confirmed, within=5, what="the edge is caught up")
    snapshots = mesh.memory(STREAMS.snapshots)
    snapshots.down()
    snapshots.up()
    snapshots.corrupt(1, b"nonsense")
    await mesh.compiler.publish({"web": {CDS: {"c": b"2"}}}, {POD: ("u1", "web")})
    await mesh.compiler.publish_alone({"web": {CDS: {"c": b"3"}}}, {POD: ("u1", "web")})
    await eventually(lambda: edge.fleet.version == 3, within=5, what="the commit that stands alone")
    late = await mesh.edge("late")
    await eventually(lambda: late.fleet.version == 3, within=5, what="an edge that starts later")


async def test_an_edge_that_stops_hands_its_streams_over(mesh: World) -> None:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        await client.send(CDS)
        await client.ack(await client.receive())
        began = time.monotonic()
        await mesh.stop_edge(edge)
        assert await client.code() is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - began < 5


async def test_a_client_that_never_reads_hurts_nobody(mesh: World) -> None:
    big = {CDS: {"c": b"x" * 6_000_000}}
    proxies = {POD: ("u1", "web"), "shop/other": ("u2", "web")}
    await mesh.compiler.publish({"web": big}, proxies)
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as stuck, mesh.client(edge, "shop/other", "u2") as other:
        await stuck.send(CDS)
        await other.send(CDS)
        await other.ack(await other.receive())
        await mesh.acked("shop/other", 1)
        for number in range(3):
            version = await mesh.compiler.publish({"web": {CDS: {"c": b"%d" % number}}}, proxies)
            await other.ack(await other.receive())
            await mesh.acked("shop/other", version)
    # One response of each type is in flight: what piles up for it is one response, not the history.
    assert edge.counters.pushes <= 5


async def test_opened_and_cancelled_streams_leave_nothing_behind(mesh: World) -> None:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    before = len(asyncio.all_tasks())
    for _ in range(30):
        async with mesh.client(edge, POD, "u1") as client:
            await client.follow_all()
            await client.receive()
    await eventually(lambda: edge.counters.streams == 0, within=5, what="all streams ended")
    await edge.reporter.flushed()
    assert not edge.fleet.streams
    await eventually(lambda: len(asyncio.all_tasks()) <= before + 2, within=5, what="all tasks ended")
