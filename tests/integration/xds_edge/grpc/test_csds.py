"""Client status: what proxies hold, for those who may see it, without secrets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.status.v3.csds_pb2 import ClientStatusRequest, ClientStatusResponse
from envoy.type.matcher.v3.node_pb2 import NodeMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from services.xds_edge.app import App
from services.xds_edge.grpc import csds, csds_service
from services.xds_edge.limits.pod_usage import FRAME_RATE
from shared.records.snapshot import CDS, LDS, SDS
from tests.integration.xds_edge.client import Client
from tests.integration.xds_edge.world import World, world
from tests.waiting import eventually

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


async def serving(mesh: World) -> App:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    return await mesh.edge()


async def test_the_mesh_itself_sees_what_a_proxy_holds_and_refuses_but_no_secret(mesh: World) -> None:
    edge = await serving(mesh)
    token = await mesh.pod("meshlog-system", "console-1", "x")
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
        token = await mesh.pod(namespace, "somebody", "x")
        assert len((await ask(client, token, ClientStatusRequest())).config) == sees


@pytest.mark.parametrize("token", ["", "not-a-token"])
async def test_without_a_token_nothing_is_told(mesh: World, token: str) -> None:
    edge = await serving(mesh)
    async with mesh.client(edge, POD, "u1") as client:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(client, token, ClientStatusRequest())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def refusal(client: Client, token: str, request: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(client, token, request)
    return refused.value.code()


@pytest.mark.parametrize("pod", ["there was never one", "deleted", "another of that name", "ended"])
async def test_a_pod_that_is_not_there_is_told_nothing(mesh: World, pod: str) -> None:
    edge = await serving(mesh)
    async with mesh.client(edge, POD, "u1") as client:
        await connected(mesh, client)
        token = mesh.issuer.token("shop", "default", "gone", "old")
        if pod == "deleted":
            await mesh.pod("shop", "gone", "old")
            await mesh.tell("Pod", "shop", "gone", "old", None)
        elif pod == "another of that name":
            await mesh.pod("shop", "gone", "new")
        elif pod == "ended":
            await mesh.pod("shop", "gone", "old", phase="Succeeded")
        assert await refusal(client, token, ClientStatusRequest()) is grpc.StatusCode.PERMISSION_DENIED


async def test_a_deleted_proxy_reads_no_client_status_by_its_old_token(mesh: World) -> None:
    edge = await serving(mesh)
    token = mesh.issuer.token("shop", "default", "web-1", "u1")
    async with mesh.client(edge, POD, "u1") as client:
        assert len((await ask(client, token, ClientStatusRequest())).config) <= 1
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u2", "web")})
        await eventually(lambda: edge.fleet.version == 2, within=5, what="the pod is another")
        assert await refusal(client, token, ClientStatusRequest()) is grpc.StatusCode.PERMISSION_DENIED


async def test_a_status_stream_ends_when_its_pod_goes(mesh: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csds_service, "_LOOK_EVERY", 0.05)
    edge = await serving(mesh)
    token = mesh.issuer.token("shop", "default", "web-1", "u1")
    async with mesh.client(edge, POD, "u1") as client:
        method = client.channel.stream_stream(f"/{csds.SERVICE}/{csds.STREAM}")
        call = method(metadata=[("authorization", f"Bearer {token}")])
        await call.write(ClientStatusRequest().SerializeToString())
        ClientStatusResponse.FromString(await asyncio.wait_for(call.read(), 5))
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u2", "web")})
        assert await asyncio.wait_for(call.code(), 5) is grpc.StatusCode.PERMISSION_DENIED


async def test_a_request_is_small(mesh: World) -> None:
    edge = await serving(mesh)
    token = mesh.issuer.token("shop", "default", "web-1", "u1")
    async with mesh.client(edge, POD, "u1") as client:
        many = [NodeMatcher(node_id=StringMatcher(exact="x" * 1000)) for _ in range(100)]
        code = await refusal(client, token, ClientStatusRequest(node_matchers=many))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_answers_do_not_pay_for_more_questions(mesh: World) -> None:
    """What is sent to a client entitles it to frames of its own; answers to questions must not, or they never end."""
    edge = await serving(mesh)
    token = mesh.issuer.token("shop", "default", "web-1", "u1")
    questions = 60
    async with mesh.client(edge, POD, "u1") as client:
        method = client.channel.stream_stream(f"/{csds.SERVICE}/{csds.STREAM}")
        call = method(metadata=[("authorization", f"Bearer {token}")])
        loop = asyncio.get_running_loop()
        frames = edge.server.usages.of("u1", loop.time()).frames
        frames.spend(3900)
        before, began = frames.left(loop.time()), loop.time()
        for _ in range(questions):
            await call.write(ClientStatusRequest().SerializeToString())
            await asyncio.wait_for(call.read(), 20)
        regained = FRAME_RATE * (loop.time() - began)
        assert before + regained - frames.left(loop.time()) >= 10 * questions
        call.cancel()
