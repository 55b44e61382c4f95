"""The long forms: many streams opened and cancelled, and a fleet of real Envoys through a restart under traffic."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import grpc.aio
import pytest

from shared.records.snapshot import CDS
from tests.integration.xds_edge.names import EDGE_DNS
from tests.integration.xds_edge.real_envoy import RealEnvoy, running
from tests.integration.xds_edge.test_process import CLASS, POD, mesh_and_edge
from tests.integration.xds_edge.test_real_envoy import cluster, routes, whole
from tests.integration.xds_edge.world import world
from tests.nats_server import NatsServer, running_nats
from tests.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
CYCLES = 20_000
ENVOYS = 60


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats(tmp_path) as server:
        yield server


@pytest.mark.nats
async def test_twenty_thousand_streams_opened_and_cancelled_leave_memory_flat(tmp_path: Path, nats: NatsServer) -> None:
    fast = {"new-streams": "1000000", "new-streams-burst": "1000000", "log-level": "error"}
    async with mesh_and_edge(tmp_path, nats, **fast) as (mesh, edge):
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        await edge.start()
        token = mesh.issuer.token("shop", "default", "web-1", "u1")
        credentials = grpc.ssl_channel_credentials(root_certificates=mesh.ca.root_pem.encode())
        options = [("grpc.ssl_target_name_override", EDGE_DNS)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{edge.port}", credentials, options=options) as channel:
            method = channel.stream_stream(DELTA)

            async def cycle(number: int) -> None:
                call = method(metadata=[("authorization", f"Bearer {token}")])
                request = b"\x12" + bytes((len(CDS),)) + CDS.encode()
                await call.write(request)
                if number % 3:
                    await call.read()
                call.cancel()

            async def cycles(count: int) -> None:
                for start in range(0, count, 50):
                    await asyncio.gather(*(cycle(start + n) for n in range(50)))

            await cycles(CYCLES // 10)
            await eventually(lambda: ended(edge), within=20, what="all streams end")
            early = edge.resident()
            await cycles(CYCLES - CYCLES // 10)
            await eventually(lambda: ended(edge), within=20, what="all streams end")
            assert edge.resident() - early < 10, f"grew from {early:.0f} MiB to {edge.resident():.0f} MiB"
        assert "Traceback" not in edge.log.read_text()


async def ended(edge: object) -> bool:
    metric = getattr(edge, "metric")  # noqa: B009
    return await metric("meshlog_edge_streams") == 0


@pytest.mark.envoy
async def test_sixty_envoys_go_through_a_restart_of_their_edge_under_traffic(tmp_path: Path) -> None:
    """No request fails, and by their own counters nothing is sent to them again."""
    pods = {f"shop/web-{number}": (f"u{number}", "web") for number in range(ENVOYS)}
    async with world(tmp_path) as mesh, contextlib.AsyncExitStack() as stack:
        version = await mesh.compiler.publish(whole(cds={"backend": cluster(tls=True)}), pods)
        edge = await mesh.edge()
        fleet: dict[str, RealEnvoy] = {}
        for pod, (uid, _) in pods.items():
            fleet[pod] = await stack.enter_async_context(
                running(
                    port=edge.server.port,
                    token=mesh.issuer.token("shop", "default", pod.split("/")[1], uid),
                    roots=mesh.ca.root_pem,
                    node=pod,
                    edge_identity="spiffe://cluster.local/ns/meshlog-system/sa/meshlog-xds-edge",
                    watches=False,
                )
            )
        ports: dict[str, int] = {}
        for pod, envoy in fleet.items():
            await mesh.acked(pod, version, within=120)
            found = await eventually(lambda envoy=envoy: envoy.listener_port("outbound"), within=30, what="a listener")
            ports[pod] = found or 0
        before = {pod: updates(await envoy.stats()) for pod, envoy in fleet.items()}
        answers: Counter[str] = Counter()
        stopping = asyncio.Event()
        traffic = asyncio.ensure_future(calls(list(ports.values()), answers, stopping))
        await eventually(lambda: sum(answers.values()) > ENVOYS, within=30, what="traffic flows")
        port = edge.server.port
        await mesh.kill_edge(edge)
        edge = await mesh.edge(port=port)
        await eventually(lambda: edge.counters.streams == ENVOYS, within=60, what="all Envoys are back")
        for pod in pods:
            await mesh.acked(pod, version, within=120)
        assert {pod: updates(await envoy.stats()) for pod, envoy in fleet.items()} == before
        assert edge.counters.pushes == 0
        version = await mesh.compiler.publish(
            whole(cds={"backend": cluster(tls=True)}, rds={"routes": routes("changed")}), pods
        )
        for pod in pods:
            await mesh.acked(pod, version, within=120)
        seen = sum(answers.values())
        await eventually(lambda: sum(answers.values()) > seen + ENVOYS, within=30, what="traffic goes on")
        stopping.set()
        await traffic
        assert set(answers) == {"hello", "changed"}, answers


def updates(stats: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in stats.items() if name.endswith((".update_success", ".version"))}


async def calls(ports: list[int], answers: Counter[str], stopping: asyncio.Event) -> None:
    """One request after the other through each Envoy; whatever is no answer counts under its name."""
    async with aiohttp.ClientSession() as session:

        async def through(port: int) -> None:
            while not stopping.is_set():
                try:
                    async with session.get(f"http://127.0.0.1:{port}/") as answer:
                        answers[await answer.text() if answer.status == 200 else str(answer.status)] += 1
                except aiohttp.ClientError as error:
                    answers[repr(error)] += 1
                await asyncio.wait([asyncio.ensure_future(stopping.wait())], timeout=0.1)

        await asyncio.gather(*(through(port) for port in ports))
