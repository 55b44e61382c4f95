"""Over real TLS: proxies that never read, request too much or send garbage harm no other proxy."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from shared.records.snapshot import CDS, EDS
from tests.integration.xds_edge.world import World, world
from tests.waiting import eventually

POD, OTHER = "shop/web-1", "shop/web-2"
PROXIES = {POD: ("u1", "web"), OTHER: ("u2", "web")}


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


def bulky(version: int) -> dict[str, dict[str, dict[str, bytes]]]:
    """Five megabytes that do not compress."""
    return {"web": {CDS: {f"c{n}": version.to_bytes(4, "big") + os.urandom(512 * 1024) for n in range(10)}}}


async def test_a_proxy_that_never_reads_is_let_go_and_hurts_nobody(mesh: World) -> None:
    await mesh.compiler.publish(bulky(1), PROXIES)
    edge = await mesh.edge(write_timeout=1.0)
    async with mesh.client(edge, POD, "u1") as slow, mesh.client(edge, OTHER, "u2") as quick:
        await slow.send(CDS)
        await eventually(lambda: edge.counters.pushes == 1 or edge.counters.streams == 1, within=5, what="a push")
        await quick.send(CDS)
        await quick.ack(await quick.receive())
        for version in (2, 3, 4):
            await mesh.compiler.publish(bulky(version), PROXIES)
            await quick.ack(await quick.receive())
            await mesh.acked(OTHER, version)
        await eventually(lambda: edge.counters.refused["stream/slow"] == 1, within=10, what="the slow one is let go")
        assert edge.counters.streams == 1


async def test_a_message_beyond_all_measure_ends_its_stream_alone(mesh: World) -> None:
    await mesh.compiler.publish({"web": {CDS: {"c": b"1"}}}, PROXIES)
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as huge, mesh.client(edge, OTHER, "u2") as other:
        await other.send(CDS)
        await other.ack(await other.receive())
        await huge.call.write(b"\x00" * (64 * 1024 * 1024))
        assert await huge.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        version = await mesh.compiler.publish({"web": {CDS: {"c": b"2"}}}, PROXIES)
        await other.ack(await other.receive())
        await mesh.acked(OTHER, version)


@pytest.mark.parametrize("count", [250_000, 1_000_000])
async def test_more_names_than_any_proxy_needs_end_its_stream_alone(mesh: World, count: int) -> None:
    await mesh.compiler.publish({"web": {CDS: {"c": b"1"}}}, PROXIES)
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as greedy, mesh.client(edge, OTHER, "u2") as other:
        await other.send(CDS)
        await other.ack(await other.receive())
        await greedy.send(EDS, resource_names_subscribe=[f"n{number}" for number in range(count)])
        assert await greedy.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        version = await mesh.compiler.publish({"web": {CDS: {"c": b"2"}}}, PROXIES)
        await other.ack(await other.receive())
        await mesh.acked(OTHER, version)
