"""Session affinity in a real sidecar: a client's calls go to one endpoint, those of many clients to all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster

from cli.offline.static_bootstrap import bootstrap
from services.compiler.core.offline import compile_events
from shared.projected_objects import ServicePort
from shared.records.events import Event
from tests.integration.compiler.envoys import Authority, running
from tests.nats_server import free_port
from tests.unit.compiler import objects

pytestmark = pytest.mark.envoy

PODS = {f"db-{number}": f"10.244.3.{number + 1}" for number in range(4)}
PORTS = {80: ServicePort(80, "http", target_port=8080), 90: ServicePort(90, "tcp", target_port=9090)}


def mesh(affinity: str) -> list[Event]:
    """A service of requests and bytes over four pods, and a pod that may call it."""
    return [
        objects.namespace("shop"),
        objects.pod("shop", "client-0", account="client", ip="10.244.3.9"),
        objects.route_group("shop", "all", {"name": "all", "pathRegex": "/.*"}),
        objects.tcp_route("shop", "any"),
        *(
            objects.target(
                "shop", kind.lower(), destination="db", sources=[("shop", "client")], rules=[(kind, name, ())]
            )
            for kind, name in (("HTTPRouteGroup", "all"), ("TCPRoute", "any"))
        ),
        *(objects.pod("shop", name, account="db", ip=ip, labels={"app": "db"}) for name, ip in PODS.items()),
        objects.service(
            "shop", "db", ip="10.96.3.1", ports=list(PORTS.values()), selector={"app": "db"}, session_affinity=affinity
        ),
        objects.slices("shop", "db", PODS, ports={"http": 8080, "tcp": 9090}),
    ]


@contextlib.asynccontextmanager
async def pods() -> AsyncGenerator[dict[str, int]]:
    """Address of a pod → port on this machine where it says its name."""
    async with contextlib.AsyncExitStack() as stack:
        local: dict[str, int] = {}
        for name, ip in PODS.items():
            server = await asyncio.start_server(_named(name), "127.0.0.1", 0)
            stack.callback(server.close)
            local[ip] = server.sockets[0].getsockname()[1]
        yield local


@contextlib.asynccontextmanager
async def calling(directory: Path, affinity: str, local: dict[str, int]) -> AsyncGenerator[dict[int, int]]:
    """Port of the service → port on this machine that the client's sidecar takes calls of it at."""
    snapshot = compile_events(mesh(affinity))
    workload_class = snapshot.proxies[f"{objects.CLUSTER}/shop/client-0"].workload_class
    config = bootstrap(snapshot, workload_class, Authority().issue("shop", "client"))
    found = {number: free_port() for number in PORTS}
    for cluster in config.static_resources.clusters:
        if cluster.name.startswith("outbound|") and cluster.type == Cluster.DiscoveryType.STATIC:
            cluster.ClearField("transport_socket")
            for one in cluster.load_assignment.endpoints[0].lb_endpoints:
                place = one.endpoint.address.socket_address
                place.address, place.port_value = "127.0.0.1", local[place.address]
    (listener,) = [one for one in config.static_resources.listeners if one.name == "outbound"]
    del config.static_resources.listeners[:]
    del listener.listener_filters[:]
    # Both services by one listener on two ports: what is left of a chain's match is the port.
    for number, port in found.items():
        (chain,) = [one for one in listener.filter_chains if one.name == f"outbound|shop/db|{number}"]
        chain.filter_chain_match.Clear()
        chain.filter_chain_match.destination_port.value = port
    listener.address.socket_address.port_value = found[80]
    extra = listener.additional_addresses.add().address.socket_address
    extra.address, extra.port_value = "0.0.0.0", found[90]  # noqa: S104 (a listener's address, as it is compiled)
    config.static_resources.listeners.append(listener)
    async with running(config, directory, f"client-{affinity}"):
        yield found


def _named(name: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(name))
            writer.write(name.encode())
            await writer.drain()
        writer.close()

    return answer


async def answered(port: int, client: str) -> str:
    """Who answers a client that calls from this address."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(client, 0))
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer.rpartition(b"\r\n\r\n")[2].decode()


async def test_a_clients_calls_go_to_one_endpoint_and_those_of_many_to_all(tmp_path: Path) -> None:
    """Requests, and bytes; another start of the sidecar chooses the same; without affinity one client meets all."""
    clients = [f"127.0.0.{number}" for number in range(1, 33)]
    chosen: list[dict[tuple[int, str], set[str]]] = []
    async with pods() as local:
        for turn in ("first", "again"):
            (tmp_path / turn).mkdir()
            async with calling(tmp_path / turn, "ClientIP", local) as ports:
                times = {client: 8 if client in clients[:2] else 1 for client in clients}
                chosen.append(
                    {
                        (number, client): {await answered(port, client) for _ in range(times[client])}
                        for number, port in ports.items()
                        for client in clients
                    }
                )
        async with calling(tmp_path, "None", local) as ports:
            for port in ports.values():
                assert {await answered(port, clients[0]) for _ in range(8)} == set(PODS)
    first, again = chosen
    assert all(len(names) == 1 for names in first.values()), first
    assert first == again
    for number in PORTS:
        assert {name for (asked, _), names in first.items() for name in names if asked == number} == set(PODS)
