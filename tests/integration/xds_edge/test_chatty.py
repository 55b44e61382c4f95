"""Stock clients that are pushed to as fast as they acknowledge never meet the limit of frames."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from services.xds_edge.app import App
from services.xds_edge.http2.frame_meter import FrameMeter
from services.xds_edge.http2.frame_reader import EARNED, FrameReader
from services.xds_edge.limits.pod_usage import FRAME_BURST, PodUsage
from shared.records.snapshot import CDS, EDS, LDS, RDS
from tests.integration.xds_edge.names import spiffe
from tests.integration.xds_edge.real_envoy import running
from tests.integration.xds_edge.test_real_envoy import cluster, endpoints, listener, routes
from tests.integration.xds_edge.world import World, world

POD = "shop/web-1"
PUSHES = 300
NAMES = {0: "DATA", 1: "HEADERS", 3: "RST_STREAM", 4: "SETTINGS", 6: "PING", 8: "WINDOW_UPDATE"}


class Watch:
    """What a client sends, and what was sent to it."""

    def __init__(self) -> None:
        self.frames: Counter[str] = Counter()
        self.sent = 0
        self.lowest = FRAME_BURST

    @property
    def received(self) -> int:
        return sum(self.frames.values())


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watching = Watch()
    take, earn = FrameMeter.next, FrameReader.earn

    def taken(meter: FrameMeter, *, allowed: bool) -> tuple[bytes, float]:
        assert allowed or not meter.waiting
        frame, price = take(meter, allowed=allowed)
        if frame and not frame.startswith(b"PRI"):
            watching.frames[NAMES.get(frame[3], str(frame[3]))] += 1
        return frame, price

    def earned(intake: FrameReader) -> None:
        watching.sent += 1
        earn(intake)

    monkeypatch.setattr(FrameMeter, "next", taken)
    monkeypatch.setattr(FrameReader, "earn", earned)
    return watching


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


def content(port: int, *, bulk: int) -> dict[str, dict[str, dict[str, bytes]]]:
    """A configuration whose endpoints differ; `bulk` more clusters make it long."""
    more = {f"bulk-{number}": cluster(f"bulk-{number}", timeout=f"{1 + port % 50}s") for number in range(bulk)}
    return {
        "web": {
            CDS: {"backend": cluster(), **more},
            EDS: {"backend": endpoints(port), **{name: endpoints(port, name) for name in more}},
            LDS: {"outbound": listener()},
            RDS: {"routes": routes()},
        }
    }


@contextlib.asynccontextmanager
async def envoy(mesh: World, edge: App) -> AsyncGenerator[None]:
    async with running(
        port=edge.server.port,
        token=mesh.issuer.token("shop", "default", "web-1", "u1"),
        roots=mesh.ca.root_pem,
        node=POD,
        edge_identity=spiffe("meshlog-system/e", "meshlog-xds-edge"),
        watches=False,
    ):
        yield


def account_of(edge: App) -> PodUsage:
    return edge.server.usages.of("u1", 0.0)


@pytest.mark.envoy
@pytest.mark.parametrize("bulk", [0, 150])
async def test_an_envoy_that_acknowledges_at_once_is_never_held_back(mesh: World, watch: Watch, bulk: int) -> None:
    await mesh.compiler.publish(content(1000, bulk=bulk), {POD: ("u1", "web")})
    edge = await mesh.edge()
    count = PUSHES if not bulk else PUSHES // 15
    async with envoy(mesh, edge):
        await mesh.acked(POD, 1)
        for number in range(count):
            version = await mesh.compiler.publish(content(1001 + number, bulk=bulk), {POD: ("u1", "web")})
            await mesh.acked(POD, version)
            watch.lowest = min(watch.lowest, account_of(edge).frames.left(0.0))
    assert_never_held_back(edge, watch, count)


async def test_a_grpc_client_that_acknowledges_at_once_is_never_held_back(mesh: World, watch: Watch) -> None:
    await mesh.compiler.publish({"web": {CDS: {"c": b"0"}}}, {POD: ("u1", "web")})
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        assert isinstance(client.channel, grpc.aio.Channel)
        await client.send(CDS)
        await client.ack(await client.receive())
        for number in range(PUSHES):
            body = b"%d" % number + b"x" * (700 if number % 10 else 200_000)
            await mesh.compiler.publish({"web": {CDS: {"c": body}}}, {POD: ("u1", "web")})
            await client.ack(await client.receive())
            watch.lowest = min(watch.lowest, account_of(edge).frames.left(0.0))
    assert_never_held_back(edge, watch, PUSHES)


def assert_never_held_back(edge: App, watch: Watch, pushes: int) -> None:
    print(f"{dict(watch.frames)} for {watch.sent} frames sent in {edge.counters.pushes} pushes; {watch.lowest=}")  # noqa: T201
    assert edge.counters.pushes >= pushes
    assert watch.received < EARNED * watch.sent / 1.3, "a third is left to spare"
    assert watch.lowest > FRAME_BURST / 2
    assert not edge.counters.closed
