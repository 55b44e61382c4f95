"""Client status: what proxies hold, for those who may see it, without secrets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.status.v3.csds_pb2 import ClientStatusRequest, ClientStatusResponse
from envoy.type.matcher.v3.node_pb2 import NodeMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from services.xds_edge.edge import Edge
from shared.snapshot import CDS, LDS, SDS
from tests.integration.xds_edge.client import Client
from tests.integration.xds_edge.world import World, world

POD = "shop/web-1"
CLASS = {CDS: {"c": b"cluster"}, LDS: {"l": b"listener"}}


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


async def connected(mesh: World, client: Client) -> None:
    await client.send(CDS)
    await client.ack(await client.receive())
    await client.send(SDS, resource_names_subscribe=["workload"])
    await client.ack(await client.receive())
    await client.send(LDS)
    await client.ack(await client.receive(), error="no good")
    await mesh.status(POD)


async def ask(client: Client, token: str, request: Any) -> ClientStatusResponse:
    method = client.channel.unary_unary("/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus")
    metadata = [("authorization", f"Bearer {token}")] if token else []
    return ClientStatusResponse.FromString(await method(request.SerializeToString(), metadata=metadata))


async def serving(mesh: World) -> Edge:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    return await mesh.edge()


async def test_the_mesh_itself_sees_what_a_proxy_holds_and_refuses_but_no_secret(mesh: World) -> None:
    edge = await serving(mesh)
    token = mesh.issuer.token("meshlog-system", "console", "console-1", "x")
    async with mesh.client(edge, POD, "u1") as client:
        await connected(mesh, client)
        await client.send(CDS)
        found = await ask(client, token, ClientStatusRequest())
        (config,) = found.config
        assert config.node.id == POD
        held = {(one.type_url, one.name): one for one in config.generic_xds_configs}
        assert set(held) == {(CDS, "c"), (LDS, "l")}
        assert held[CDS, "c"].xds_config.value == b"cluster"
        assert held[LDS, "l"].error_state.details == "no good"
        assert b"PRIVATE KEY" not in found.SerializeToString()
        bare = await ask(client, token, ClientStatusRequest(exclude_resource_contents=True))
        assert not any(one.xds_config.value for one in bare.config[0].generic_xds_configs)
        elsewhere = NodeMatcher(node_id=StringMatcher(exact="shop/other"))
        assert not (await ask(client, token, ClientStatusRequest(node_matchers=[elsewhere]))).config


@pytest.mark.parametrize(("namespace", "sees"), [("shop", 1), ("elsewhere", 0)])
async def test_others_see_their_own_namespace(mesh: World, namespace: str, sees: int) -> None:
    edge = await serving(mesh)
    async with mesh.client(edge, POD, "u1") as client:
        await connected(mesh, client)
        token = mesh.issuer.token(namespace, "default", "somebody", "x")
        assert len((await ask(client, token, ClientStatusRequest())).config) == sees


@pytest.mark.parametrize("token", ["", "not-a-token"])
async def test_without_a_token_nothing_is_told(mesh: World, token: str) -> None:
    edge = await serving(mesh)
    async with mesh.client(edge, POD, "u1") as client:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(client, token, ClientStatusRequest())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
