"""A mesh for the edge's benchmark: real nats-server, real edge processes, and commits as a compiler writes them.

Proxies are spread over 100 classes. Every class holds 20 clusters that all share, one of its own, two listeners and
their routes; a change replaces the endpoints of classes, or of a cluster that all hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route, RouteAction, RouteMatch, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    Rds,
)
from google.protobuf.message import Message

from benchmarks import compile as compile_
from benchmarks.swarm.proxy import Target
from services.compiler.core.compiler import Compiler
from services.compiler.mesh_state import MeshSettings
from shared.eventlog.protocol import EMPTY, Checkpoint
from shared.records import chunked_payload
from shared.records.snapshot import (
    CDS,
    EDS,
    FORMAT,
    LDS,
    RDS,
    Commit,
    Proxy,
    Resource,
    ResourceId,
    Snapshot,
    ViewChange,
    encode_commit,
    resource_hash,
)
from shared.service.interpreter import module
from shared.streams.jetstream import JetStreamLogs
from tests.integration.xds_edge.names import CLUSTER, EDGE_DNS, STREAMS
from tests.integration.xds_edge.world import World
from tests.nats_server import NatsServer, running_nats
from tests.ports import free_port

CLASSES = 100
SHARED = 20
ENDPOINTS = 10
_TOKEN_AGE = 3600
OWN = "services.xds_edge"
"""The module of an edge's process."""


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _cluster(name: str) -> bytes:
    cluster = Cluster(name=name, type=Cluster.DiscoveryType.EDS)
    cluster.eds_cluster_config.eds_config.ads.SetInParent()
    return _bytes(cluster)


def _endpoints(name: str, turn: int) -> bytes:
    found = [
        LbEndpoint(
            endpoint=Endpoint(
                address=Address(socket_address=SocketAddress(address=f"10.{turn % 250}.1.{n}", port_value=80))
            )
        )
        for n in range(ENDPOINTS)
    ]
    return _bytes(ClusterLoadAssignment(cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=found)]))


def _listener(name: str, routes: list[str]) -> bytes:
    listener = Listener(name=name)
    for route in routes:
        manager = HttpConnectionManager(stat_prefix=route, rds=Rds(route_config_name=route))
        manager.rds.config_source.ads.SetInParent()
        filter_ = Filter(name="http")
        filter_.typed_config.Pack(manager)
        listener.filter_chains.append(FilterChain(name=route, filters=[filter_]))
    return _bytes(listener)


def _routes(name: str) -> bytes:
    route = Route(match=RouteMatch(prefix="/"), route=RouteAction(cluster=name))
    return _bytes(RouteConfiguration(name=name, virtual_hosts=[VirtualHost(name=name, domains=["*"], routes=[route])]))


class Publisher:
    """Writes commits as a compiler does."""

    def __init__(self, logs: JetStreamLogs) -> None:
        self._logs = logs
        self.snapshot = Snapshot()
        self._tip: Checkpoint = EMPTY
        self._turn = 0

    async def begin(self, proxies: int) -> None:
        """The first commit: all classes, all proxies."""
        shared = [f"shared-{number}" for number in range(SHARED)]
        resources: dict[ResourceId, Resource] = {}
        views: dict[str, ViewChange | None] = {}

        def add(put: dict[str, dict[str, str]], type_url: str, name: str, body: bytes) -> None:
            digest = resource_hash(type_url, body)
            resources[type_url, name, digest] = Resource(type_url, name, digest, body)
            put.setdefault(type_url, {})[name] = digest

        for number in range(CLASSES):
            put: dict[str, dict[str, str]] = {}
            names = [*shared, f"own-{number}"]
            for name in names:
                add(put, CDS, name, _cluster(name))
                add(put, EDS, name, _endpoints(name, 0))
                add(put, RDS, name, _routes(name))
            add(put, LDS, "outbound", _listener("outbound", names))
            add(put, LDS, "inbound", _listener("inbound", []))
            views[f"class-{number}"] = ViewChange(put=put)
        entries: dict[str, Proxy | None] = {
            f"{CLUSTER}/bench/p{number}": Proxy(
                CLUSTER, "bench", f"p{number}", f"u{number}", "default", f"class-{number % CLASSES}"
            )
            for number in range(proxies)
        }
        await self._append(
            Commit(
                format=FORMAT,
                version=1,
                parent=0,
                epoch="bench",
                build="bench",
                resources=list(resources.values()),
                views=views,
                proxies=entries,
            )
        )

    async def change(self, classes: int) -> int:
        """New endpoints for this many classes (all: of a cluster that every class holds); the moment of the append."""
        self._turn += 1
        everybody = classes >= CLASSES
        names = ["shared-0"] if everybody else [f"own-{number}" for number in range(classes)]
        resources: list[Resource] = []
        retired: list[ResourceId] = []
        views: dict[str, ViewChange | None] = {}
        for number, name in enumerate(names):
            body = _endpoints(name, self._turn)
            digest = resource_hash(EDS, body)
            resources.append(Resource(EDS, name, digest, body))
            retired.append((EDS, name, self.snapshot.views[f"class-{number}"][EDS][name]))
            concerned = range(CLASSES) if everybody else (number,)
            views |= {f"class-{one}": ViewChange(put={EDS: {name: digest}}) for one in concerned}
        return await self._append(
            self._next(
                resources=resources,
                retired=retired,
                views=views,
            )
        )

    async def add(self, pods: Sequence[str], workload_class: str, clusters: dict[str, bytes]) -> None:
        """More proxies, whose uids are their names, of a class of their own that holds these clusters."""
        digests = {name: resource_hash(CDS, body) for name, body in clusters.items()}
        await self._append(
            self._next(
                resources=[Resource(CDS, name, digests[name], body) for name, body in clusters.items()],
                views={workload_class: ViewChange(put={CDS: digests})},
                proxies={
                    f"{CLUSTER}/bench/{pod}": Proxy(CLUSTER, "bench", pod, pod, "default", workload_class)
                    for pod in pods
                },
            )
        )

    async def replace(self, snapshot: Snapshot) -> None:
        """Publish another snapshot whole, as the next version."""
        version = self.snapshot.version + 1
        self.snapshot = Snapshot()
        await self._append(msgspec.structs.replace(snapshot.keyframe(), version=version, epoch="bench"))

    async def keyframe(self) -> None:
        """Write the whole snapshot."""
        log = await self._logs.open(STREAMS.keyframes)
        subject = STREAMS.keyframe_subject
        drafts = chunked_payload.split(encode_commit(self.snapshot.keyframe()), subject, version=self.snapshot.version)
        tip = await log.tip(subject)
        await log.append(drafts, scope=subject, after=tip, epoch="" if tip.epoch else "keyframes")

    def _next(self, **parts: Any) -> Commit:
        """The commit after the newest version, with these parts."""
        version = self.snapshot.version
        return Commit(format=FORMAT, version=version + 1, parent=version, epoch="bench", build="bench", **parts)

    async def _append(self, commit: Commit) -> int:
        log = await self._logs.open(STREAMS.snapshots)
        subject = STREAMS.snapshot_subject
        drafts = chunked_payload.split(encode_commit(commit), subject, version=commit.version)
        moment = time.time_ns()
        self._tip = await log.append(drafts, scope=subject, after=self._tip, epoch="" if self._tip.epoch else "commits")
        self.snapshot.apply(commit)
        return moment


def compiled_mesh(services: int) -> Snapshot:
    """What the compiler makes of that many services of ten pods, as in the compiler's benchmark."""
    compiler, snapshot = Compiler(MeshSettings()), Snapshot()
    for sequence, event in enumerate(compile_.mesh(services), 1):
        compiler.fold(event, sequence)
    commit = compiler.commit(snapshot)
    assert commit is not None
    snapshot.apply(commit)
    return snapshot


class EdgeProcess:
    """`meshlog run xds-edge` as a process, or a module that takes the same flags."""

    def __init__(
        self, directory: Path, nats: NatsServer, token_file: Path, *, module: str = OWN, **settings: object
    ) -> None:
        self._module = module
        self.port = free_port()
        self._http = free_port()
        self._log = directory / "edge.log"
        given: dict[str, object] = {
            "nats-url": nats.url,
            "host": "127.0.0.1",
            "port": self.port,
            "http-port": self._http,
            "state-dir": directory / "state",
            "key-dir": directory / "key",
            "token-file": token_file,
            "instance": "edge-0",
            "log-level": "warning",
            "drain": 0.1,
            # All proxies have the one address of this machine.
            "connections-per-address": 100_000,
            "waiting-connections": 40_000,
            "new-connections-per-address": 100_000,
            "new-connections-per-address-burst": 100_000,
            **settings,
        }
        self._flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
        self._process: asyncio.subprocess.Process | None = None
        self._started_in = 0.0

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def health(self) -> str:
        """URL of its liveness check, on the event loop that serves."""
        return f"http://127.0.0.1:{self._http}/healthz"

    @property
    def started_in(self) -> float:
        """Seconds that the last start took."""
        return self._started_in

    async def start(self, *, within: float = 60.0) -> float:
        """Start it; returns the seconds until it was ready."""
        began = time.monotonic()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *module(self._module, *self._flags), stdout=log, stderr=log
            )
        async with aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{self._http}/readyz") as answer:
                        if answer.status == 200:
                            self._started_in = time.monotonic() - began
                            return self._started_in
                if self._process.returncode is not None or time.monotonic() - began > within:
                    raise RuntimeError(self._log.read_text(encoding="utf-8")[-2000:])
                await asyncio.sleep(0.05)

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        url = f"http://127.0.0.1:{self._http}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            lines = (await answer.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    async def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class BenchMesh:
    """Everything around the edges."""

    def __init__(self, directory: Path, nats: NatsServer, world: World, logs: JetStreamLogs) -> None:
        self.directory = directory
        self.nats = nats
        self.world = world
        self.publisher = Publisher(logs)
        self.roots = directory / "roots.pem"
        self.roots.write_text(world.ca.root_pem, encoding="utf-8")

    def proxies(self, count: int) -> list[tuple[str, str]]:
        """Node ids and tokens."""
        token = self.world.issuer.token
        return [(f"bench/p{number}", token("bench", "default", f"p{number}", f"u{number}")) for number in range(count)]

    def target(self, edge: EdgeProcess) -> Target:
        """An edge, as the swarm reaches it."""
        return Target(host="127.0.0.1", port=edge.port, authority=EDGE_DNS, roots=str(self.roots))

    @contextlib.asynccontextmanager
    async def edge(self, *, module: str = OWN, **settings: object) -> AsyncGenerator[EdgeProcess]:
        """A started edge; it ends with the block."""
        edge = EdgeProcess(self.directory, self.nats, self.world.token_file, module=module, **settings)
        try:
            await edge.start()
            yield edge
        finally:
            await edge.kill()


@contextlib.asynccontextmanager
async def mesh(directory: Path, proxies: int) -> AsyncGenerator[BenchMesh]:
    """A mesh with its first version in the log."""
    with running_nats(directory) as nats:
        logs = JetStreamLogs.connect(nats.access, STREAMS)
        world = World(directory, logs)
        await world.start()
        try:
            made = BenchMesh(directory, nats, world, logs)
            await made.publisher.begin(proxies)
            yield made
        finally:
            await world.close()
            await logs.close()
