"""A stock gRPC channel resolves, balances and follows through an edge, by resources as the compiler renders them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from cli.verbs.process.grpc_bootstrap import bootstrap, main
from services.compiler.core.offline import compile_events
from services.compiler.mesh_state import MeshSettings
from shared.projected_objects import (
    ANNOTATION_PROXYLESS,
    Container,
    ContainerPort,
    Meta,
    Pod,
    PodSpec,
    PodStatus,
    ServicePort,
)
from shared.records.events import Event
from shared.records.snapshot import EDS, LDS, SDS
from tests.integration.xds_edge.world import World, world
from tests.ports import free_port
from tests.unit.compiler import objects
from tests.waiting import eventually

BUYER = "buyer/buyer-1"


def pod(namespace: str, name: str, *, account: str, ip: str) -> Event:
    meta = Meta(
        name=name, namespace=namespace, uid=f"Pod-{namespace}-{name}", annotations={ANNOTATION_PROXYLESS: "true"}
    )
    spec = PodSpec(
        service_account_name=account, containers=[Container(name="app", ports=[ContainerPort(container_port=1)])]
    )
    return objects.event("Pod", namespace, name, Pod(meta, spec, PodStatus(phase="Running", pod_ip=ip)))


class Mesh:
    """A bookstore of proxyless pods, compiled for real, behind a real edge."""

    def __init__(self, around: World, port: int) -> None:
        self.world = around
        self.port = port
        self.answering = {"one": "127.0.0.11", "two": "127.0.0.12"}
        self.split: dict[str, int] = {}

    def events(self) -> Iterator[Event]:
        yield objects.namespace("bookstore")
        yield objects.namespace("buyer")
        yield pod("buyer", "buyer-1", account="buyer", ip="10.0.0.1")
        yield pod("buyer", "stranger-1", account="stranger", ip="10.0.0.2")
        ports = [ServicePort(port=14001, name="grpc", target_port=self.port)]
        for service, pods in (("bookstore", self.answering), ("bookstore-v2", {"three": "127.0.0.13"})):
            yield objects.service("bookstore", service, ports=ports)
            for name, ip in pods.items():
                yield pod("bookstore", name, account=service, ip=ip)
            yield objects.slices("bookstore", service, pods, ports={"grpc": self.port})
            yield objects.route_group("bookstore", service, {"name": "all", "pathRegex": ".*", "methods": ["*"]})
            yield objects.target(
                "bookstore",
                service,
                destination=service,
                sources=[("buyer", "buyer")],
                rules=[("HTTPRouteGroup", service, ["all"])],
            )
        if self.split:
            yield objects.split("bookstore", "split", root="bookstore", backends=self.split)

    async def publish(self) -> int:
        snapshot = compile_events(self.events(), MeshSettings(loopback=True))
        classes: dict[str, dict[str, dict[str, bytes]]] = {
            name: {
                type_url: {one: snapshot.resources[type_url, one, digest].body for one, digest in held.items()}
                for type_url, held in view.items()
            }
            for name, view in snapshot.views.items()
        }
        proxies = {f"{p.namespace}/{p.pod}": (p.uid, p.workload_class) for p in snapshot.proxies.values()}
        return await self.world.compiler.publish(classes, proxies)


@contextlib.asynccontextmanager
async def servers(port: int, addresses: Mapping[str, str]) -> AsyncGenerator[None]:
    """Plain gRPC servers that return their name."""
    started: list[Any] = []
    for name, address in addresses.items():

        async def who(_request: bytes, _context: object, name: str = name) -> bytes:
            return name.encode()

        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handler = grpc.unary_unary_rpc_method_handler(who)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Bookstore", {"Who": handler}),))
        server.add_insecure_port(f"{address}:{port}")
        await server.start()
        started.append(server)
    try:
        yield
    finally:
        for server in started:
            await server.stop(None)


class Client:
    """The stock client, in a process of its own: gRPC reads its bootstrap once."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def call(self, count: int) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{count}\n".encode())
        return json.loads(await asyncio.wait_for(self._process.stdout.readline(), 60))


@contextlib.asynccontextmanager
async def client(mesh: Mesh, edge_port: int, who: str = BUYER, account: str = "buyer") -> AsyncGenerator[Client]:
    directory = mesh.world.directory
    namespace, name = who.split("/")
    (directory / "roots.pem").write_text(mesh.world.ca.root_pem)
    (directory / "token").write_text(mesh.world.issuer.token(namespace, account, name, f"Pod-{namespace}-{name}"))
    made = bootstrap(
        edge=f"dns:///localhost:{edge_port}",
        roots=str(directory / "roots.pem"),
        token=str(directory / "token"),
        node=who,
    )
    (directory / "bootstrap.json").write_text(json.dumps(made))
    environment = {
        **os.environ,
        "GRPC_XDS_BOOTSTRAP": str(directory / "bootstrap.json"),
        "GRPC_EXPERIMENTAL_XDS_BOOTSTRAP_CALL_CREDS": "true",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.xds_edge.proxyless_client",
        "xds:///bookstore.bookstore.svc.cluster.local:14001",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        yield Client(process)
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with world(tmp_path) as made:
        yield Mesh(made, free_port())


async def test_a_stock_channel_resolves_balances_and_follows(mesh: Mesh) -> None:
    everybody = {"one": "127.0.0.11", "two": "127.0.0.12", "three": "127.0.0.13"}
    version = await mesh.publish()
    edge = await mesh.world.edge()
    async with servers(mesh.port, everybody), client(mesh, edge.server.port) as channel:
        counts = await channel.call(40)
        assert set(counts) == {"one", "two"}, counts
        assert min(counts.values()) >= 15
        status = await mesh.world.status(BUYER)
        assert status.types[LDS].acked == version
        assert SDS not in status.types
        # An endpoint goes.
        mesh.answering = {"two": "127.0.0.12"}
        version = await mesh.publish()
        await mesh.world.acked(BUYER, version)
        assert await channel.call(10) == {"two": 10}
        # A split sends most calls to another service.
        mesh.split = {"bookstore": 10, "bookstore-v2": 90}
        version = await mesh.publish()
        await mesh.world.acked(BUYER, version)
        counts = await channel.call(100)
        assert set(counts) == {"two", "three"}, counts
        assert counts["three"] > counts["two"]
        # The edge restarts: nothing is sent again, and calls go on.
        port = edge.server.port
        await mesh.world.kill_edge(edge)
        assert sum((await channel.call(10)).values()) == 10
        edge = await mesh.world.edge(port=port)
        await eventually(lambda: edge.counters.streams == 1, within=20, what="the client is back")
        await mesh.world.acked(BUYER, version)
        assert edge.counters.pushes == 0
        assert set(await channel.call(20)) <= {"two", "three"}


async def test_a_client_that_policy_names_nowhere_finds_no_listener(mesh: Mesh) -> None:
    await mesh.publish()
    edge = await mesh.world.edge()
    async with (
        servers(mesh.port, mesh.answering),
        client(mesh, edge.server.port, "buyer/stranger-1", "stranger") as channel,
    ):
        # gRPC waits 15 s before it reports that a listener does not exist; the call gives up before.
        assert not set(await channel.call(1)) & set(mesh.answering)


def test_a_sidecar_is_no_endpoint_of_a_proxyless_client() -> None:
    """It takes mutual TLS only."""
    events = [
        objects.namespace("bookstore"),
        objects.mesh_config(permissive=True),
        pod("bookstore", "plain", account="a", ip="10.0.0.1"),
        objects.pod("bookstore", "meshed", account="a", ip="10.0.0.2", labels={"app": "store"}),
        objects.service("bookstore", "store"),
        objects.slices("bookstore", "store", {"plain": "10.0.0.1", "meshed": "10.0.0.2"}),
    ]
    snapshot = compile_events(events)
    for name in ("plain", "meshed"):
        proxy = next(proxy for proxy in snapshot.proxies.values() if proxy.pod == name)
        found = snapshot.views[proxy.workload_class][EDS]
        bodies = b"".join(snapshot.resources[EDS, one, digest].body for one, digest in found.items())
        assert (b"10.0.0.1" in bodies) == (name == "plain")
        assert (b"10.0.0.2" in bodies) == (name == "meshed")


def test_the_verb_prints_what_a_client_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--node", "shop/web-1"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["node"]["id"] == "shop/web-1"
    assert printed["xds_servers"][0]["call_creds"][0]["type"] == "jwt_token_file"
