"""The edge on gRPC's server, which the own one is measured against, is a whole edge: else it would be no measure."""

from __future__ import annotations

from pathlib import Path

import grpc
from envoy.service.status.v3.csds_pb2 import ClientStatusRequest, ClientStatusResponse

from services.xds_edge.grpc import csds
from shared.records.snapshot import CDS, EDS, SDS, SECRET_TRUST_BUNDLE, SECRET_WORKLOAD
from tests.grpcio_edge.running import grpcio_edges
from tests.grpcio_edge.server import GrpcioServer
from tests.integration.xds_edge.client import Client
from tests.integration.xds_edge.names import CLASS, POD
from tests.integration.xds_edge.world import World, world


async def settled(mesh: World, client: Client) -> None:
    """The client holds all of the newest version, and both secrets."""
    await client.follow_all()
    while client.held.get(SDS, {}).keys() != {SECRET_TRUST_BUNDLE, SECRET_WORKLOAD} or len(client.held) < 5:
        await client.drain(1)
    await mesh.acked(POD, mesh.compiler.version)


async def test_it_serves_pushes_and_takes_acknowledgements(tmp_path: Path) -> None:
    with grpcio_edges():
        async with world(tmp_path) as mesh:
            await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
            edge = await mesh.edge()
            assert isinstance(edge.server, GrpcioServer)
            async with mesh.client(edge, POD, "u1") as client:
                await settled(mesh, client)
                version = await mesh.compiler.publish({"web": {**CLASS, CDS: {"c": b"2"}}}, {POD: ("u1", "web")})
                assert await client.drain(2) == [CDS, EDS]  # a cluster that changed wants its endpoints again
                await mesh.acked(POD, version)


async def test_it_refuses_who_has_no_token_and_answers_who_has_one(tmp_path: Path) -> None:
    with grpcio_edges():
        async with world(tmp_path) as mesh:
            await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
            edge = await mesh.edge()
            async with mesh.client(edge, POD, "u1", token="none") as stranger:
                assert await stranger.code() is grpc.StatusCode.UNAUTHENTICATED
            async with mesh.client(edge, POD, "u1") as client:
                await settled(mesh, client)
                token = await mesh.pod("meshlog-system", "p", "u")
                ask = client.channel.unary_unary(f"/{csds.SERVICE}/{csds.FETCH}")
                answer = await ask(
                    ClientStatusRequest().SerializeToString(), metadata=[("authorization", f"Bearer {token}")]
                )
                assert [one.node.id for one in ClientStatusResponse.FromString(answer).config] == [POD]


async def test_it_stops(tmp_path: Path) -> None:
    with grpcio_edges():
        async with world(tmp_path) as mesh:
            await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
            edge = await mesh.edge()
            async with mesh.client(edge, POD, "u1") as client:
                await settled(mesh, client)
                await mesh.stop_edge(edge)
                assert await client.code() is grpc.StatusCode.UNAVAILABLE
