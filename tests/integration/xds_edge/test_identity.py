"""Which streams an edge admits, and for how long: the token decides."""

from __future__ import annotations

import grpc
import pytest

from shared.records.snapshot import CDS
from tests.integration.xds_edge.names import CLASS, POD
from tests.integration.xds_edge.world import World


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"aud": ["kubernetes"]}, "token/audience"),
        ({"exp": 1_000_000}, "token/expired"),
        ({"iss": "https://elsewhere"}, "token/issuer"),
    ],
)
async def test_a_bad_token_is_refused(mesh: World, claims: dict[str, object], code: str) -> None:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    token = mesh.issuer.token("shop", "default", "web-1", "u1", **claims)
    async with mesh.client(edge, POD, "u1", token=token) as client:
        assert await client.code() is grpc.StatusCode.UNAUTHENTICATED
    assert edge.counters.refused[code] == 1


@pytest.mark.parametrize("token", ["none", "not-a-token", "a.b.c"])
async def test_no_token_is_refused(mesh: World, token: str, caplog: pytest.LogCaptureFixture) -> None:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1", token=token) as client:
        assert await client.code() is grpc.StatusCode.UNAUTHENTICATED
    assert token == "none" or token not in caplog.text


LIES = (
    "shop/db-1",
    f"{POD}/",
    f"{POD}\0",
    POD.upper(),
    f" {POD}",
    "../shop/db-1",
    "meshlog-system/meshlog-xds-edge-1",
    "*",
    "shop/*",
    "a" * 5_000,
)
"""A node id that contradicts the token."""


async def test_the_node_id_decides_nothing(mesh: World) -> None:
    await mesh.compiler.publish(
        {"web": {CDS: {"own": b"1"}}, "db": {CDS: {"foreign": b"1"}}},
        {POD: ("u1", "web"), "shop/db-1": ("u2", "db")},
    )
    edge = await mesh.edge()
    for number, lie in enumerate(LIES, 1):
        async with mesh.client(edge, POD, "u1") as client:
            await client.send(CDS, lie)
            assert [resource.name for resource in (await client.receive()).resources] == ["own"], lie
        assert edge.counters.node_mismatches == number, lie


async def test_a_stream_ends_when_its_pod_is_gone(mesh: World) -> None:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        await client.send(CDS)
        await client.ack(await client.receive())
        await mesh.compiler.publish({"web": CLASS}, {})
        assert await client.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_stream_ends_when_its_pod_was_replaced(mesh: World) -> None:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        await client.send(CDS)
        await client.ack(await client.receive())
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u2", "web")})
        assert await client.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_an_edge_that_knows_nothing_yet_refuses(mesh: World) -> None:
    """A proxy keeps what it has; an empty configuration would be an outage."""
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        assert await client.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x12\x7fshort"])
async def test_garbage_is_refused(mesh: World, garbage: bytes) -> None:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        await client.call.write(garbage)
        assert await client.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_unknown_type_is_refused(mesh: World) -> None:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        await client.send("type.googleapis.com/envoy.service.runtime.v3.Runtime")
        assert await client.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_too_many_new_streams_are_asked_to_come_back(mesh: World) -> None:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge(new_streams=0.001, new_streams_burst=1.0)
    async with mesh.client(edge, POD, "u1") as first:
        await first.send(CDS)
        await first.receive()
        async with mesh.client(edge, POD, "u1") as second:
            assert await second.code() is grpc.StatusCode.UNAVAILABLE
    assert edge.counters.refused["stream/paced"] == 1
