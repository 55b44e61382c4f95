"""A random mesh as real Envoys on loopback: a sidecar and an application for each pod, nothing between them left out.

Every pod has an address of 127.0.0.0/8, so that the bytes that the compiler made hold as they are. Two things stand in
for the redirect of a pod's node: a caller says where it wanted to go by the PROXY protocol, which its sidecar reads in
place of the kernel's original destination, and a sidecar's inbound listener is bound to the pod's own ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import NamedTuple

import msgspec
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.listener.v3.listener_components_pb2 import ListenerFilter
from envoy.config.listener.v3.listener_pb2 import AdditionalAddress, Listener
from envoy.extensions.filters.listener.proxy_protocol.v3.proxy_protocol_pb2 import ProxyProtocol

from cli.offline.static_bootstrap import TlsMaterial, bootstrap
from services.compiler.core.offline import compile_events
from services.compiler.envoy_names import INBOUND_LISTENER, MESH_PROTOCOL
from services.compiler.mesh_state import MeshSettings
from services.compiler.render.packing import packed
from shared.records.events import Event
from shared.records.snapshot import Proxy, Snapshot
from tests.integration.compiler.envoys import Authority, running
from tests.oracle.meshes import BYTES, TARGETS, Mesh, Placed
from tests.oracle.smi import Ask, Name
from tests.ports import free_port

DENIED = "denied"
_PATIENCE = 10.0


def _free_network(first: int) -> int:
    """A second octet under 127 that nobody has bound anything to, as far as one port tells."""
    for octet in range(first, first + 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((f"127.{octet}.0.1", TARGETS[0]))
            return octet
    raise AssertionError("no part of 127.0.0.0/8 is free")


def on_loopback(mesh: Mesh, octet: int) -> Mesh:
    """The same mesh, its pods with addresses that this machine has."""
    before, after = "10.244.", f"127.{octet}."

    def moved(event: Event) -> Event:
        raw = event.object
        return msgspec.structs.replace(
            event, object=None if raw is None else msgspec.Raw(bytes(raw).replace(before.encode(), after.encode()))
        )

    return Mesh(
        [moved(event) for event in mesh.events],
        [pod._replace(ip=pod.ip.replace(before, after)) for pod in mesh.pods],
        mesh.services,
    )


def _socket_address(host: str, port: int) -> Address:
    return Address(socket_address=SocketAddress(address=host, port_value=port))


def bind_outbound(listener: Listener, host: str, port: int) -> None:
    """Take what the application sends at an address, by the PROXY protocol."""
    listener.address.CopyFrom(_socket_address(host, port))
    told = ListenerFilter(name="envoy.filters.listener.proxy_protocol", typed_config=packed(ProxyProtocol()))
    listener.listener_filters[0].CopyFrom(told)


def bind_inbound(listener: Listener, host: str, ports: tuple[int, ...] = TARGETS) -> None:
    """Take what reaches the pod at its own ports."""
    listener.address.CopyFrom(_socket_address(host, ports[0]))
    listener.additional_addresses.extend(AdditionalAddress(address=_socket_address(host, port)) for port in ports[1:])


class Running(NamedTuple):
    """A pod with a sidecar."""

    placed: Placed
    proxy: Proxy
    outbound: int
    """Port that its sidecar takes connections of the application at."""
    material: TlsMaterial


class Realised:
    """The mesh, and how to call in it."""

    def __init__(self, mesh: Mesh, snapshot: Snapshot, directory: Path) -> None:
        self.mesh = mesh
        self.snapshot = snapshot
        self.pods: dict[Name, Running] = {}
        self._directory = directory

    def configuration(self, pod: Running, application: str) -> Bootstrap:
        """What the pod's sidecar is told, bound to this machine."""
        found = bootstrap(self.snapshot, pod.proxy.workload_class, pod.material)
        for cluster in found.static_resources.clusters:
            if cluster.type == Cluster.DiscoveryType.STATIC and cluster.name.startswith("local|"):
                cluster.load_assignment.endpoints[0].lb_endpoints[
                    0
                ].endpoint.address.socket_address.address = application
        for listener in found.static_resources.listeners:
            if listener.name == INBOUND_LISTENER:
                bind_inbound(listener, pod.placed.ip)
            else:
                bind_outbound(listener, "127.0.0.1", pod.outbound)
        return found

    async def call(self, caller: Name, host: str, port: int, ask: Ask | None) -> str:
        """What an application gets that calls an address: the name of the pod that answers, or that it is denied."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.pods[caller].outbound)
        except ConnectionRefusedError:
            return DENIED
        writer.write(f"PROXY TCP4 127.0.0.1 {host} 40000 {port}\r\n".encode())
        return await talk(reader, writer, ask)

    async def intrude(self, caller: Name, server: Name, port: int, ask: Ask | None) -> str:
        """What one gets who has a pod's certificate and asks no sidecar of its own for permission."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols([MESH_PROTOCOL])
        name = "-".join(caller)
        chain, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        chain.write_text(self.pods[caller].material.chain)
        key.write_text(self.pods[caller].material.key)
        context.load_cert_chain(chain, key)
        try:
            reader, writer = await asyncio.open_connection(
                self.pods[server].placed.ip, port, ssl=context, server_hostname="any"
            )
        except OSError:
            return DENIED
        return await talk(reader, writer, ask)


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ask: Ask | None) -> str:
    """What a connection answers to a request (or says by itself, without one), or `DENIED`."""
    try:
        if ask is None:
            return (await asyncio.wait_for(reader.readline(), _PATIENCE)).decode().strip() or DENIED
        host = () if any(name == "host" for name, _ in ask.headers) else (("host", "none"),)
        lines = [f"{ask.method} {ask.path} HTTP/1.1", *(f"{key}: {value}" for key, value in (*host, *ask.headers))]
        writer.write("\r\n".join([*lines, "content-length: 0", "connection: close", "", ""]).encode())
        head, _, body = (await asyncio.wait_for(reader.read(), _PATIENCE)).decode().partition("\r\n\r\n")
        return body if head.startswith("HTTP/1.1 200") else DENIED
    except OSError:
        return DENIED
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def applications(
    stack: contextlib.AsyncExitStack, host: str, name: str, ports: tuple[int, ...] = TARGETS
) -> None:
    """Answer requests, and greet on the port of bytes, with the pod's name."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(name)}\r\nconnection: close\r\n\r\n{name}".encode())
            await writer.drain()
        writer.close()

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(f"{name}\n".encode())
            await writer.drain()
        writer.close()

    for port in ports:
        server = await asyncio.start_server(greet if port == BYTES else answer, host, port)
        stack.callback(server.close)


@contextlib.asynccontextmanager
async def realised(mesh: Mesh, directory: Path) -> AsyncGenerator[Realised]:
    """The mesh, running."""
    first = random.SystemRandom().randrange(2, 50)
    mesh = on_loopback(mesh, _free_network(first))
    network = _free_network(first + 101)
    authority = Authority()
    found = Realised(mesh, compile_events(mesh.events, MeshSettings(loopback=True)), directory)
    async with contextlib.AsyncExitStack() as stack:
        started: list[contextlib.AbstractAsyncContextManager[None]] = []
        for index, placed in enumerate(mesh.pods):
            proxy = found.snapshot.proxies.get(f"cluster/{placed.namespace}/{placed.name}")
            if proxy is None:
                continue
            material = authority.issue(placed.namespace, proxy.service_account)
            name = (placed.namespace, placed.name)
            found.pods[name] = pod = Running(placed, proxy, free_port(), material)
            application = f"127.{network}.0.{index + 1}"
            await applications(stack, application, "/".join(name))
            started.append(running(found.configuration(pod, application), directory, "-".join(name)))
        await asyncio.gather(*(stack.enter_async_context(one) for one in started))
        yield found
