"""Certificates and bundles by SDS, and where their keys are not."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from services.ca.core.cluster_state import ClusterState
from services.ca.log.rotation_progress import FleetProgress
from shared.identity.service_account_tokens import TokenVerifier
from shared.records import events
from shared.records.certificate_records import TrustBundle
from shared.records.snapshot import SDS
from tests.integration.xds_edge.names import CLASS, CLUSTER, POD, STREAMS, spiffe
from tests.integration.xds_edge.world import World, world
from tests.waiting import eventually


async def test_the_certificate_is_for_the_tokens_identity_and_the_key_stays_inside(mesh: World) -> None:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    token = mesh.issuer.token("shop", "default", "web-1", "u1")
    async with mesh.client(edge, POD, "u1", token=token) as client:
        await client.send(SDS, resource_names_subscribe=["workload", "trust-bundle"])
        found: dict[str, Secret] = {}
        while len(found) < 2:
            response = await client.receive()
            found |= {r.name: Secret.FromString(r.resource.value) for r in response.resources}
            await client.ack(response)
    assert found["trust-bundle"].validation_context.trusted_ca.inline_bytes.decode() == mesh.ca.root_pem
    key = found["workload"].tls_certificate.private_key.inline_bytes
    assert key.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert mesh.ca.tokens[-1] == token
    await edge.last_good.save()
    for stream in (STREAMS.csrs, STREAMS.certs, STREAMS.status, STREAMS.events, STREAMS.snapshots):
        async for record in (await mesh.logs.open(stream)).read():
            assert b"PRIVATE KEY" not in record.payload
            assert token.encode() not in record.payload
    for file in (mesh.directory / "edge-0").iterdir():
        assert key not in file.read_bytes()
        assert token.encode() not in file.read_bytes()
        assert file.stat().st_mode & 0o077 == 0


async def test_a_reconnect_to_another_edge_needs_no_new_certificate(mesh: World) -> None:
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    first, second = await mesh.edge("edge-1"), await mesh.edge("edge-2")
    async with mesh.client(first, POD, "u1") as client:
        await client.follow_all()
        await client.drain(6)
        held = client.held
    async with mesh.client(second, POD, "u1") as client:
        await client.follow_all(**held)
        with pytest.raises(TimeoutError):
            await client.receive(within=0.1)
        status = await mesh.acked(POD, 1)
        assert status.edge == "edge-2"
    assert second.counters.pushes == 0
    assert mesh.ca.signed.count(spiffe(POD)) == 1


async def test_a_certificate_is_renewed_before_it_expires(tmp_path: Path) -> None:
    async with world(tmp_path, lifetime=2.0) as mesh:
        await mesh.compiler.publish({"web": {SDS: {}}}, {POD: ("u1", "web")})
        edge = await mesh.edge()
        async with mesh.client(edge, POD, "u1") as client:
            await client.send(SDS, resource_names_subscribe=["workload"])
            before = await client.receive()
            await client.ack(before)
            after = await client.receive()
            assert after.resources[0].name == "workload"
            assert after.resources[0].version != before.resources[0].version


async def test_a_secret_asked_for_again_is_sent_again(mesh: World) -> None:
    """Also by an edge that has never held it: it obtains another one."""
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    first, second = await mesh.edge("edge-1"), await mesh.edge("edge-2")
    async with mesh.client(first, POD, "u1") as client:
        await client.send(SDS, resource_names_subscribe=["workload"])
        await client.ack(await client.receive())
        held = client.held[SDS]
    async with mesh.client(second, POD, "u1") as client:
        await client.send(SDS, resource_names_subscribe=["workload"], initial_resource_versions=held)
        await client.send(SDS, resource_names_subscribe=["workload"])
        response = await client.receive()
        assert [resource.name for resource in response.resources] == ["workload"]
        assert response.resources[0].resource.value


async def test_a_rotation_waits_for_a_proxy_while_it_asks_for_the_bundle_and_no_longer(mesh: World) -> None:
    """By what the edge reports and the CA reads: a sidecar whose last policy goes gives its secrets up."""
    await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
    namespace, name = POD.split("/")
    facts = ClusterState(TokenVerifier(), cluster=CLUSTER, mesh_name="meshlog", mesh_namespace="meshlog-system")
    await mesh.pod(namespace, name, "u1")
    async for record in (await mesh.logs.open(STREAMS.events)).read():
        facts.apply(events.read(record))
    progress = FleetProgress(
        status=await mesh.logs.open(STREAMS.status),
        certs=await mesh.logs.open(STREAMS.certs),
        events=await mesh.logs.open(STREAMS.events),
        streams=STREAMS,
        state=facts,
        cluster=CLUSTER,
        namespace="meshlog-system",
        bundle_subject=STREAMS.bundle_subject("cluster.local"),
        serving_accounts=(),
        clock=time.time,
        skew=300,
        lifetime=86400,
    )
    held, later = TrustBundle("cluster.local", 1, [], []), 1 << 40

    async def waits() -> tuple[bool, bool]:
        await progress.refresh(held)
        return bool(progress.untrusting(later)), bool(progress.unrenewed(later))

    async def reach(expected: tuple[bool, bool], what: str) -> None:
        async def probe() -> bool:
            return await waits() == expected

        await eventually(probe, within=10, what=what)

    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        await client.send(SDS, resource_names_subscribe=["workload", "trust-bundle"])
        while len(client.held.get(SDS, {})) < 2:
            await client.ack(await client.receive())
        await reach((True, True), "it uses both")
        await client.send(SDS, resource_names_unsubscribe=["trust-bundle"])
        await reach((False, True), "it verifies nothing with the bundle any more")
        await client.send(SDS, resource_names_unsubscribe=["workload"])
        await reach((False, False), "and shows no certificate")
        await client.send(SDS, resource_names_subscribe=["trust-bundle"])
        await reach((True, False), "it asks for the bundle again")
        await client.send(SDS, resource_names_unsubscribe=["trust-bundle"])
        await reach((False, False), "and gives it up")
    await eventually(_gone(mesh), within=10, what="it is gone")
    assert await waits() == (False, False), "also once it is gone"


def _gone(mesh: World) -> Callable[[], Awaitable[bool]]:
    async def probe() -> bool:
        return not (await mesh.status(POD)).connected

    return probe
