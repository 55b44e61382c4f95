"""Two families of addresses through real Envoys: listeners on both, endpoints of either, pods addressed by IPv6."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from cli.offline.static_bootstrap import bootstrap
from services.compiler.core.offline import compile_events
from services.compiler.mesh_state import MeshSettings
from shared.projected_objects import EndpointSlice, Meta, ServicePort, SliceEndpoint, SlicePort, TargetRef
from shared.records.events import Event
from tests.integration.compiler.envoys import Authority, running
from tests.integration.compiler.realised import DENIED, applications, bind_outbound, talk
from tests.oracle.smi import Ask
from tests.ports import free_port
from tests.unit.compiler import objects

pytestmark = pytest.mark.envoy

FOUR, SIX = "10.96.1.2", "fd00:96::2"
LOOPBACK = {"IPv4": "127.0.0.1", "IPv6": "::1"}


def piece(service: str, family: str, port: int) -> Event:
    """The slice of one family."""
    value = EndpointSlice(
        Meta(name=f"{service}-{family}", namespace="store", labels={"kubernetes.io/service-name": service}),
        family,
        [SliceEndpoint(addresses=[LOOPBACK[family]], target_ref=TargetRef(kind="Pod", name="server-0"))],
        [SlicePort(port=port)],
    )
    return objects.event("EndpointSlice", "store", f"{service}-{family}", value)


def mesh(port: int, *, six_first: bool) -> list[Event]:
    """A client and a server whose addresses are those of this machine, one of each family."""
    both = list(LOOPBACK.values())
    addresses = [SIX, FOUR] if six_first else [FOUR, SIX]
    offered = [ServicePort(port=80, target_port=port)]
    return [
        objects.namespace("store"),
        objects.pod(
            "store",
            "client-0",
            account="client",
            ip="127.0.0.2",
            ips=["127.0.0.2", "fd00::2"],
            labels={"app": "client"},
        ),
        objects.pod("store", "server-0", account="server", ip=both[0], ips=both, labels={"app": "server"}),
        objects.service("store", "server", ip=addresses[0], cluster_ips=addresses, ports=offered),
        objects.service("store", "nodes", ip="None", selector={"app": "server"}, ports=[ServicePort(port=port)]),
        *(piece(service, family, port) for service in ("server", "nodes") for family in LOOPBACK),
        objects.route_group("store", "a", {"name": "it", "pathRegex": "/a"}),
        objects.target(
            "store",
            "t",
            destination="server",
            sources=[("store", "client")],
            rules=[("HTTPRouteGroup", "a", [])],
        ),
    ]


@contextlib.asynccontextmanager
async def dual(directory: Path, *, six_first: bool, listens_on: str = "127.0.0.1") -> AsyncGenerator[tuple[int, int]]:
    """Both sidecars and the application: the client's outbound port and the server's own."""
    outbound, port, application = free_port(), free_port(), free_port()
    snapshot = compile_events(mesh(port, six_first=six_first), MeshSettings(loopback=True))
    authority = Authority()
    async with contextlib.AsyncExitStack() as stack:
        await applications(stack, listens_on, "server-0", (application,))
        for name in ("client", "server"):
            workload_class = snapshot.proxies[f"cluster/store/{name}-0"].workload_class
            config = bootstrap(snapshot, workload_class, authority.issue("store", name))
            for cluster in config.static_resources.clusters:
                if cluster.name == f"local|{port}":
                    (endpoint,) = cluster.load_assignment.endpoints[0].lb_endpoints
                    where = [
                        endpoint.endpoint.address,
                        *(one.address for one in endpoint.endpoint.additional_addresses),
                    ]
                    assert [one.socket_address.address for one in where] == ["127.0.0.1", "::1"]
                    for one in where:
                        one.socket_address.port_value = application
            for listener in config.static_resources.listeners:
                bound = listener.address.socket_address
                assert (bound.address, bound.ipv4_compat) == ("::", True)
                if listener.name == "outbound":
                    bind_outbound(listener, "::", outbound if name == "client" else free_port())
                    listener.address.socket_address.ipv4_compat = True
                else:
                    bound.port_value = port if name == "server" else free_port()
            await stack.enter_async_context(running(config, directory, name))
        yield outbound, port


async def call(outbound: int, host: str, port: int, path: str) -> str:
    """A request from the client's application to an address, over a connection of the same family."""
    family = "6" if ":" in host else "4"
    own = LOOPBACK[f"IPv{family}"]
    reader, writer = await asyncio.open_connection(own, outbound)
    writer.write(f"PROXY TCP{family} {own} {host} 40000 {port}\r\n".encode())
    return await talk(reader, writer, Ask("GET", path))


@pytest.mark.parametrize("six_first", [False, True], ids=["IPv4 first", "IPv6 first"])
async def test_a_service_of_two_families_is_called_by_both(six_first: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """By its addresses, and by those of its pods; policy holds for each."""
    async with dual(tmp_path, six_first=six_first) as (outbound, port):
        for host, number in ((FOUR, 80), (SIX, 80), ("127.0.0.1", port), ("::1", port)):
            assert await call(outbound, host, number, "/a") == "server-0", host
            assert await call(outbound, host, number, "/b") == DENIED, host
        assert await call(outbound, "fd00:96::3", 80, "/a") == DENIED, "its neighbour is not it"


@pytest.mark.parametrize("listens_on", ["127.0.0.1", "::1"])
async def test_an_application_is_called_on_the_loopback_address_that_it_listens_on(
    listens_on: str, tmp_path: Path
) -> None:
    async with dual(tmp_path, six_first=True, listens_on=listens_on) as (outbound, port):
        for host, number in ((FOUR, 80), ("::1", port)):
            assert await call(outbound, host, number, "/a") == "server-0", host
