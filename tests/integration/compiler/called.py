"""A called pod, alone: its real sidecar, entered by whoever has a certificate, and an application behind it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from google.protobuf.json_format import ParseDict

from cli.offline.static_bootstrap import bootstrap
from services.compiler.core.offline import compile_events
from services.injector.core.proxy_bootstrap import bootstrap as injected
from shared.records.events import Event
from tests.integration.compiler.envoys import Authority, running
from tests.ports import free_port
from tests.unit.compiler import objects
from tests.unit.injector.pods import INSTALLATION

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PORT = 8080


class Called(NamedTuple):
    """Where its sidecar listens, and who may sign for callers."""

    port: int
    authority: Authority
    directory: Path
    config: Bootstrap

    def caller(self, namespace: str, account: str) -> tuple[str, str]:
        """Files of a certificate and its key."""
        material = self.authority.issue(namespace, account)
        chain, key = self.directory / f"{namespace}-{account}.pem", self.directory / f"{namespace}-{account}.key"
        chain.write_text(material.chain)
        key.write_text(material.key)
        return str(chain), str(key)


async def says_what_it_got(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An application that answers each request with the head of it."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(head), head))
            await writer.drain()
    writer.close()


def tuned(config: Bootstrap, *, inbound: int, application: int, handshake: float | None = None) -> None:
    """Bind the sidecar of `store/v1-0` to this machine; `handshake`: seconds in place of those that it is told."""
    for cluster in config.static_resources.clusters:
        if cluster.type == Cluster.DiscoveryType.STATIC and cluster.name.startswith("local|"):
            for group in cluster.load_assignment.endpoints:
                for item in group.lb_endpoints:
                    item.endpoint.address.socket_address.port_value = application
    kept = [one for one in config.static_resources.listeners if one.name == "inbound"]
    del config.static_resources.listeners[:]
    config.static_resources.listeners.extend(kept)
    (listener,) = config.static_resources.listeners
    listener.address.socket_address.address = "127.0.0.1"
    listener.address.socket_address.port_value = inbound
    filters = [one for one in listener.listener_filters if not one.name.endswith("original_dst")]
    del listener.listener_filters[:]
    listener.listener_filters.extend(filters)
    for chain in listener.filter_chains:
        if chain.filter_chain_match.destination_port.value == PORT:
            chain.filter_chain_match.destination_port.value = inbound
        if handshake is not None and chain.HasField("transport_socket_connect_timeout"):
            chain.transport_socket_connect_timeout.FromMilliseconds(int(handshake * 1000))
    if handshake is not None:
        listener.listener_filters_timeout.FromMilliseconds(int(handshake * 1000))


@contextlib.asynccontextmanager
async def called(
    directory: Path,
    events: Sequence[Event] = (),
    *,
    serve: Serve = says_what_it_got,
    handshake: float | None = None,
    connections: int | None = None,
) -> AsyncGenerator[Called]:
    """The pod `store/v1-0` of the bookstore, with some more objects."""
    snapshot = compile_events([*objects.bookstore(), *events])
    authority, inbound, application = Authority(), free_port(), free_port()
    server = await asyncio.start_server(serve, "127.0.0.1", application, limit=1 << 20)
    workload_class = snapshot.proxies[f"{objects.CLUSTER}/store/v1-0"].workload_class
    config = bootstrap(snapshot, workload_class, authority.issue("store", "store-v1"))
    tuned(config, inbound=inbound, application=application, handshake=handshake)
    if connections is not None:
        # As the injector writes it into the bootstrap of a pod.
        made = injected(INSTALLATION, (), connections=connections)
        ParseDict({"layered_runtime": made["layered_runtime"]}, config)
    async with running(config, directory, "called"):
        yield Called(inbound, authority, directory, config)
    server.close()
