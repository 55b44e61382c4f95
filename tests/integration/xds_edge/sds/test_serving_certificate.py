"""Secrets and statuses that an edge sends, over real TLS."""

from __future__ import annotations

import grpc
import pytest

from shared.records.snapshot import CDS, EDS, LDS, RDS, SDS
from tests.integration.xds_edge.names import CLASS, POD, spiffe
from tests.integration.xds_edge.world import World
from tests.waiting import eventually


async def test_a_proxy_gets_everything_and_its_acks_reach_the_log(mesh: World) -> None:
    version = await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        await client.follow_all()
        # Clusters come before what refers to them; secrets come when they are signed.
        seen = await client.drain(6)
        assert sorted(set(seen)) == sorted({CDS, EDS, LDS, RDS, SDS})
        assert seen.index(CDS) < seen.index(LDS) <= seen.index(RDS)
        status = await mesh.acked(POD, version)
    assert status.edge == "edge-0"
    assert status.workload_class == "web"
    assert all(one.acked == version for one in status.types.values())
    assert mesh.ca.signed.count(spiffe(POD)) == 1


async def test_a_change_concerns_only_its_class(mesh: World) -> None:
    await mesh.compiler.publish(
        {"a": {CDS: {"c": b"1"}}, "b": {CDS: {"c": b"1"}}}, {POD: ("u1", "a"), "shop/b": ("u2", "b")}
    )
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as one, mesh.client(edge, "shop/b", "u2") as other:
        for client in (one, other):
            await client.send(CDS)
            await client.ack(await client.receive())
        version = await mesh.compiler.publish(
            {"a": {CDS: {"c": b"2"}}, "b": {CDS: {"c": b"1"}}}, {POD: ("u1", "a"), "shop/b": ("u2", "b")}
        )
        response = await one.receive()
        assert response.resources[0].resource.value == b"2"
        assert response.system_version_info == str(version)
        await one.ack(response)
        await mesh.acked(POD, version)
        with pytest.raises(TimeoutError):
            await other.receive(within=0.05)
        assert (await mesh.status("shop/b")).acked == version - 1


async def test_a_pod_that_is_not_compiled_yet_waits(mesh: World) -> None:
    await mesh.compiler.publish({"web": CLASS}, {"shop/other": ("u0", "web")})
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        await client.send(CDS)
        with pytest.raises(TimeoutError):
            await client.receive(within=0.05)
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})


async def test_a_pod_that_comes_to_be_compiled_is_served(mesh: World) -> None:
    await mesh.compiler.publish({"web": CLASS}, {"shop/other": ("u0", "web")})
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        await client.send(CDS)
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        assert [resource.name for resource in (await client.receive()).resources] == ["c"]


async def test_a_pod_that_never_gets_compiled_is_asked_to_come_back(mesh: World) -> None:
    await mesh.compiler.publish({"web": CLASS}, {"shop/other": ("u0", "web")})
    edge = await mesh.edge(patience=0.05)
    async with mesh.client(edge, POD, "u1") as client:
        assert await client.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_refusal_is_reported_with_the_proxys_words(mesh: World) -> None:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        await client.send(LDS)
        await client.ack(await client.receive(), error="the listener is no good")

        async def refused() -> bool:
            refusal = (await mesh.status(POD)).types[LDS].refusal
            return refusal is not None and refusal.message == "the listener is no good" and "l" in refusal.resources

        await eventually(refused, within=5, what="the refusal is in the log")
        await mesh.compiler.publish({"web": {**CLASS, LDS: {"l": b"better"}}}, {POD: ("u1", "web")})
        await client.ack(await client.receive())

        async def cleared() -> bool:
            return (await mesh.status(POD)).types[LDS].refusal is None

        await eventually(cleared, within=5, what="the refusal is cleared")


async def test_a_proxy_that_leaves_is_reported(mesh: World) -> None:
    await mesh.compiler.publish({"web": {CDS: {}}}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        await client.send(CDS)
        await mesh.acked(POD, 1)

    async def gone() -> bool:
        return not (await mesh.status(POD)).connected

    await eventually(gone, within=5, what="the end of the stream is reported")


async def test_moving_to_another_edge_leaves_the_proxy_connected(mesh: World) -> None:
    """The old edge's late word about the end of its stream must not win."""
    await mesh.compiler.publish({"web": {CDS: {}}}, {POD: ("u1", "web")})
    first, second = await mesh.edge("edge-1"), await mesh.edge("edge-2")
    async with mesh.client(first, POD, "u1") as old:
        await old.send(CDS)
        await mesh.acked(POD, 1)
        async with mesh.client(second, POD, "u1") as new:
            await new.send(CDS)

            async def moved() -> bool:
                return (await mesh.status(POD)).edge == "edge-2"

            await eventually(moved, within=5, what="the second edge reports")
            await old.__aexit__()
            await eventually(lambda: first.counters.streams == 0, within=5, what="the old stream ends")
            await first.reporter.flushed()
            assert (await mesh.status(POD)).connected
