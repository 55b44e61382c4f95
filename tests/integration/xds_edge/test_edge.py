"""An edge over real TLS: who is let in, what is sent, what is reported, what survives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from shared.eventlog.memory import MemoryLogs
from shared.snapshot import CDS, EDS, LDS, RDS, SDS
from tests.integration.xds_edge.world import STREAMS, Client, World, spiffe, world
from tests.waiting import eventually

POD = "shop/web-1"
CLASS = {CDS: {"c": b"cluster"}, EDS: {"c": b"endpoints"}, LDS: {"l": b"listener"}, RDS: {"r": b"routes"}}


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


async def follow_all(client: Client, **initial: dict[str, str]) -> None:
    """Subscribe as an Envoy does that needs everything."""
    for type_url, names in ((CDS, []), (EDS, ["c"]), (LDS, []), (RDS, ["r"]), (SDS, ["workload", "trust-bundle"])):
        await client.send(
            type_url, "shop/web-1", resource_names_subscribe=names, initial_resource_versions=initial.get(type_url, {})
        )


async def drain(client: Client, count: int) -> list[str]:
    """Accept that many responses; their types in order."""
    seen: list[str] = []
    for _ in range(count):
        response = await client.receive()
        seen.append(response.type_url)
        await client.ack(response)
    return seen


class TestServing:
    async def test_a_proxy_gets_everything_and_its_acks_reach_the_log(self, mesh: World) -> None:
        version = await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        edge = await mesh.edge()
        async with mesh.client(edge, POD, "u1") as client:
            await follow_all(client)
            # Clusters come before what refers to them; secrets come when they are signed.
            seen = await drain(client, 6)
            assert sorted(set(seen)) == sorted({CDS, EDS, LDS, RDS, SDS})
            assert seen.index(CDS) < seen.index(LDS) <= seen.index(RDS)
            status = await mesh.acked(POD, version)
        assert status.edge == "edge-0"
        assert status.workload_class == "web"
        assert all(one.acked == version for one in status.types.values())
        assert mesh.ca.signed.count(spiffe(POD)) == 1

    async def test_a_change_concerns_only_its_class(self, mesh: World) -> None:
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

    async def test_a_pod_that_is_not_compiled_yet_waits(self, mesh: World) -> None:
        await mesh.compiler.publish({"web": CLASS}, {"shop/other": ("u0", "web")})
        edge = await mesh.edge()
        async with mesh.client(edge, POD, "u1") as client:
            await client.send(CDS)
            with pytest.raises(TimeoutError):
                await client.receive(within=0.05)
            await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})

    async def test_a_pod_that_comes_to_be_compiled_is_served(self, mesh: World) -> None:
        await mesh.compiler.publish({"web": CLASS}, {"shop/other": ("u0", "web")})
        edge = await mesh.edge()
        async with mesh.client(edge, POD, "u1") as client:
            await client.send(CDS)
            await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
            assert [resource.name for resource in (await client.receive()).resources] == ["c"]

    async def test_a_pod_that_never_gets_compiled_is_asked_to_come_back(self, mesh: World) -> None:
        await mesh.compiler.publish({"web": CLASS}, {"shop/other": ("u0", "web")})
        edge = await mesh.edge(patience=0.05)
        async with mesh.client(edge, POD, "u1") as client:
            assert await client.code() is grpc.StatusCode.UNAVAILABLE

    async def test_a_refusal_is_reported_with_the_proxys_words(self, mesh: World) -> None:
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

    async def test_a_proxy_that_leaves_is_reported(self, mesh: World) -> None:
        await mesh.compiler.publish({"web": {CDS: {}}}, {POD: ("u1", "web")})
        edge = await mesh.edge()
        async with mesh.client(edge, POD, "u1") as client:
            await client.send(CDS)
            await mesh.acked(POD, 1)

        async def gone() -> bool:
            return not (await mesh.status(POD)).connected

        await eventually(gone, within=5, what="the end of the stream is reported")

    async def test_moving_to_another_edge_leaves_the_proxy_connected(self, mesh: World) -> None:
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


class TestIdentity:
    @pytest.mark.parametrize(
        ("claims", "code"),
        [
            ({"aud": ["kubernetes"]}, "token/audience"),
            ({"exp": 1_000_000}, "token/expired"),
            ({"iss": "https://elsewhere"}, "token/issuer"),
        ],
    )
    async def test_a_bad_token_is_refused(self, mesh: World, claims: dict[str, object], code: str) -> None:
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        edge = await mesh.edge()
        token = mesh.issuer.token("shop", "default", "web-1", "u1", **claims)
        async with mesh.client(edge, POD, "u1", token=token) as client:
            assert await client.code() is grpc.StatusCode.UNAUTHENTICATED
        assert edge.counters.refused[code] == 1

    @pytest.mark.parametrize("token", ["none", "not-a-token", "a.b.c"])
    async def test_no_token_is_refused(self, mesh: World, token: str, caplog: pytest.LogCaptureFixture) -> None:
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        edge = await mesh.edge()
        async with mesh.client(edge, POD, "u1", token=token) as client:
            assert await client.code() is grpc.StatusCode.UNAUTHENTICATED
        assert token == "none" or token not in caplog.text

    async def test_the_node_id_decides_nothing(self, mesh: World) -> None:
        await mesh.compiler.publish(
            {"web": {CDS: {"own": b"1"}}, "db": {CDS: {"foreign": b"1"}}},
            {POD: ("u1", "web"), "shop/db-1": ("u2", "db")},
        )
        edge = await mesh.edge()
        async with mesh.client(edge, POD, "u1") as client:
            await client.send(CDS, "shop/db-1")
            assert [resource.name for resource in (await client.receive()).resources] == ["own"]
        assert edge.counters.node_mismatches == 1

    async def test_a_stream_ends_when_its_pod_is_gone(self, mesh: World) -> None:
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        edge = await mesh.edge()
        async with mesh.client(edge, POD, "u1") as client:
            await client.send(CDS)
            await client.ack(await client.receive())
            await mesh.compiler.publish({"web": CLASS}, {})
            assert await client.code() is grpc.StatusCode.PERMISSION_DENIED

    async def test_a_stream_ends_when_its_pod_was_replaced(self, mesh: World) -> None:
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        edge = await mesh.edge()
        async with mesh.client(edge, POD, "u1") as client:
            await client.send(CDS)
            await client.ack(await client.receive())
            await mesh.compiler.publish({"web": CLASS}, {POD: ("u2", "web")})
            assert await client.code() is grpc.StatusCode.PERMISSION_DENIED

    async def test_an_edge_that_knows_nothing_yet_refuses(self, mesh: World) -> None:
        """A proxy keeps what it has; an empty configuration would be an outage."""
        edge = await mesh.edge()
        async with mesh.client(edge, POD, "u1") as client:
            assert await client.code() is grpc.StatusCode.UNAVAILABLE

    @pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x12\x7fshort"])
    async def test_garbage_is_refused(self, mesh: World, garbage: bytes) -> None:
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        edge = await mesh.edge()
        async with mesh.client(edge, POD, "u1") as client:
            await client.call.write(garbage)
            assert await client.code() is grpc.StatusCode.INVALID_ARGUMENT

    async def test_an_unknown_type_is_refused(self, mesh: World) -> None:
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        edge = await mesh.edge()
        async with mesh.client(edge, POD, "u1") as client:
            await client.send("type.googleapis.com/envoy.service.runtime.v3.Runtime")
            assert await client.code() is grpc.StatusCode.INVALID_ARGUMENT

    async def test_too_many_new_streams_are_asked_to_come_back(self, mesh: World) -> None:
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        edge = await mesh.edge(new_streams=0.001, new_streams_burst=1.0)
        async with mesh.client(edge, POD, "u1") as first:
            await first.send(CDS)
            await first.receive()
            async with mesh.client(edge, POD, "u1") as second:
                assert await second.code() is grpc.StatusCode.UNAVAILABLE
        assert edge.counters.refused["stream/paced"] == 1


class TestSecrets:
    async def test_the_certificate_is_for_the_tokens_identity_and_the_key_stays_inside(self, mesh: World) -> None:
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
        await edge.save()
        for stream in (STREAMS.csrs, STREAMS.certs, STREAMS.status, STREAMS.events, STREAMS.snapshots):
            async for record in (await mesh.logs.open(stream)).read():
                assert b"PRIVATE KEY" not in record.payload
                assert token.encode() not in record.payload
        for file in (mesh.directory / "edge-0").iterdir():
            assert key not in file.read_bytes()
            assert token.encode() not in file.read_bytes()
            assert file.stat().st_mode & 0o077 == 0

    async def test_a_reconnect_to_another_edge_needs_no_new_certificate(self, mesh: World) -> None:
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        first, second = await mesh.edge("edge-1"), await mesh.edge("edge-2")
        async with mesh.client(first, POD, "u1") as client:
            await follow_all(client)
            await drain(client, 6)
            held = client.held
        async with mesh.client(second, POD, "u1") as client:
            await follow_all(client, **held)
            with pytest.raises(TimeoutError):
                await client.receive(within=0.1)
            status = await mesh.acked(POD, 1)
            assert status.edge == "edge-2"
        assert second.counters.pushes == 0
        assert mesh.ca.signed.count(spiffe(POD)) == 1

    async def test_a_certificate_is_renewed_before_it_expires(self, tmp_path: Path) -> None:
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

    async def test_a_secret_asked_for_again_is_sent_again(self, mesh: World) -> None:
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


class TestSurvival:
    async def test_a_warm_reconnect_after_a_restart_sends_nothing(self, mesh: World) -> None:
        version = await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        edge = await mesh.edge()
        async with mesh.client(edge, POD, "u1") as client:
            await follow_all(client)
            await drain(client, 6)
            held = client.held
        await mesh.kill_edge(edge)
        edge = await mesh.edge()
        async with mesh.client(edge, POD, "u1") as client:
            await follow_all(client, **held)
            with pytest.raises(TimeoutError):
                await client.receive(within=0.1)
            await mesh.acked(POD, version)
        assert edge.counters.pushes == 0

    async def test_an_edge_serves_from_disk_with_everything_else_down(self, mesh: World) -> None:
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
        await eventually(lambda: edge.may_serve, within=5, what="the edge trusts its disk")
        async with mesh.client(edge, POD, "u1") as client:
            await client.send(CDS)
            assert [resource.name for resource in (await client.receive()).resources] == ["c"]
            await client.send(SDS, resource_names_subscribe=["trust-bundle"])
            assert [resource.name for resource in (await client.receive()).resources] == ["trust-bundle"]

    async def test_a_proxy_with_newer_state_is_left_alone_by_an_edge_that_has_only_its_disk(self, mesh: World) -> None:
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        edge = await mesh.edge()
        await eventually(lambda: edge.fleet.version == 1, within=5, what="the edge has version 1")
        await mesh.stop_edge(edge)
        newer = await mesh.compiler.publish({"web": {**CLASS, CDS: {"c": b"newer"}}}, {POD: ("u1", "web")})
        logs = mesh.logs
        assert isinstance(logs, MemoryLogs)
        for name in (STREAMS.snapshots, STREAMS.keyframes):
            logs.stream(name).down()
        edge = await mesh.edge(confirm_within=0.05)
        await eventually(lambda: edge.may_serve, within=5, what="the edge trusts its disk")
        held = {"c": next(iter(mesh.compiler.snapshot.views["web"][CDS].values()))}
        async with mesh.client(edge, POD, "u1") as client:
            await client.send(CDS, initial_resource_versions=held)
            with pytest.raises(TimeoutError):
                await client.receive(within=0.1)
            for name in (STREAMS.snapshots, STREAMS.keyframes):
                logs.stream(name).up()
            for type_url, names in ((LDS, []), (RDS, ["r"]), (EDS, ["c"])):
                await client.send(type_url, resource_names_subscribe=names)
            await drain(client, 3)
            await mesh.acked(POD, newer)
            assert client.held.get(CDS) is None

    async def test_a_keyframe_and_the_commits_after_it_make_the_snapshot(self, mesh: World) -> None:
        for number in range(5):
            await mesh.compiler.publish({"web": {CDS: {"c": str(number).encode()}}}, {POD: ("u1", "web")})
            if number == 2:
                await mesh.compiler.keyframe()
        logs = mesh.logs
        assert isinstance(logs, MemoryLogs)
        for sequence in (1, 2):
            logs.stream(STREAMS.snapshots).lose(sequence)
        edge = await mesh.edge()
        await eventually(lambda: edge.fleet.version == 5, within=5, what="the edge is at version 5")

    async def test_a_hole_in_the_commits_leads_back_to_a_keyframe(self, mesh: World) -> None:
        await mesh.compiler.publish({"web": {CDS: {"c": b"1"}}}, {POD: ("u1", "web")})
        edge = await mesh.edge()
        await eventually(lambda: edge.fleet.confirmed, within=5, what="the edge is caught up")
        logs = mesh.logs
        assert isinstance(logs, MemoryLogs)
        snapshots = logs.stream(STREAMS.snapshots)
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

    async def test_a_commit_that_stands_alone_leads_beyond_a_hole(self, mesh: World) -> None:
        """What a compiler publishes that could not read its own commits back: a new epoch."""
        await mesh.compiler.publish({"web": {CDS: {"c": b"1"}}}, {POD: ("u1", "web")})
        edge = await mesh.edge()
        await eventually(lambda: edge.fleet.confirmed, within=5, what="the edge is caught up")
        logs = mesh.logs
        assert isinstance(logs, MemoryLogs)
        snapshots = logs.stream(STREAMS.snapshots)
        snapshots.down()
        snapshots.up()
        snapshots.corrupt(1, b"nonsense")
        await mesh.compiler.publish({"web": {CDS: {"c": b"2"}}}, {POD: ("u1", "web")})
        await mesh.compiler.publish_alone({"web": {CDS: {"c": b"3"}}}, {POD: ("u1", "web")})
        await eventually(lambda: edge.fleet.version == 3, within=5, what="the commit that stands alone")
        late = await mesh.edge("late")
        await eventually(lambda: late.fleet.version == 3, within=5, what="an edge that starts later")

    async def test_an_edge_that_stops_hands_its_streams_over(self, mesh: World) -> None:
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        edge = await mesh.edge()
        async with mesh.client(edge, POD, "u1") as client:
            await client.send(CDS)
            await client.ack(await client.receive())
            began = time.monotonic()
            await mesh.stop_edge(edge)
            assert await client.code() is grpc.StatusCode.UNAVAILABLE
            assert time.monotonic() - began < 5

    async def test_a_client_that_never_reads_hurts_nobody(self, mesh: World) -> None:
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

    async def test_opened_and_cancelled_streams_leave_nothing_behind(self, mesh: World) -> None:
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        edge = await mesh.edge()
        before = len(asyncio.all_tasks())
        for _ in range(30):
            async with mesh.client(edge, POD, "u1") as client:
                await follow_all(client)
                await client.receive()
        await eventually(lambda: edge.counters.streams == 0, within=5, what="all streams ended")
        await edge.reporter.flushed()
        assert not edge.fleet.streams
        await eventually(lambda: len(asyncio.all_tasks()) <= before + 2, within=5, what="all tasks ended")
