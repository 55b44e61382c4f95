"""The server of an edge, met by stock clients over TLS: age, unknown methods, renewed certificates, other protocols."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from services.xds_edge.errors import StreamRefusedError
from services.xds_edge.http2.call import GrpcCall
from services.xds_edge.http2.connection import Http2Connection
from services.xds_edge.http2.keepalive import Http2Limits
from services.xds_edge.tcp.tls_context import server_context
from shared.errors import BadInputError
from shared.records.snapshot import CDS
from tests.integration.xds_edge.names import EDGE_DNS
from tests.integration.xds_edge.world import World, world
from tests.waiting import eventually

POD = "shop/web-1"


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        await made.compiler.publish({"web": {CDS: {"c": b"cluster"}}}, {POD: ("u1", "web")})
        yield made


async def test_an_old_connection_is_asked_to_move_on_and_its_proxy_comes_back_warm(mesh: World) -> None:
    edge = await mesh.edge(max_connection_age=1.0)
    async with mesh.client(edge, POD, "u1") as client:
        await client.send(CDS)
        await client.ack(await client.receive())
        assert await client.code() is grpc.StatusCode.UNAVAILABLE
        assert "old" in (await client.call.details() or "")
    assert edge.counters.refused["stream/aged"] == 1
    pushes = edge.counters.pushes
    async with mesh.client(edge, POD, "u1") as again:
        await again.send(CDS, initial_resource_versions=client.held[CDS])
        await eventually(lambda: edge.fleet.synced == 1 or edge.counters.streams == 1, within=5, what="it is back")
        with pytest.raises(TimeoutError):
            await again.receive(within=0.2)
    assert edge.counters.pushes == pushes


async def test_many_streams_are_handed_over_in_the_time_that_was_given(mesh: World) -> None:
    """Three thousand streams in half a second: a sleep between each two would take six times as long."""
    edge = await mesh.edge()
    ended: list[float] = []
    loop = asyncio.get_running_loop()

    class Stream:
        def end(self, why: StreamRefusedError) -> None:
            assert why.code == "stream/draining"
            ended.append(loop.time())

    edge.server.__dict__["_running"] = {number: Stream() for number in range(3000)}
    began = loop.time()
    await edge.server.drain(0.5)
    assert len(ended) == 3000
    assert loop.time() - began < 2.5
    assert ended[-1] - ended[0] > 0.3, "and spread over it"


async def test_a_method_that_there_is_not_is_told_so(mesh: World) -> None:
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        call = client.channel.unary_unary("/envoy.service.discovery.v3.AggregatedDiscoveryService/Nothing")(b"")
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_compressed_messages_are_told_so(mesh: World) -> None:
    edge = await mesh.edge()
    async with mesh.client(edge, POD, "u1") as client:
        method = client.channel.unary_unary("/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus")
        metadata = [("authorization", f"Bearer {mesh.issuer.token('shop', 'default', 'web-1', 'u1')}")]
        call = method(b"x" * 10_000, metadata=metadata, compression=grpc.Compression.Gzip)
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def presented(port: int, roots: str, *, alpn: str = "h2") -> x509.Certificate:
    """The certificate that a new connection sees."""
    context = ssl.create_default_context(cadata=roots)
    context.set_alpn_protocols([alpn])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=EDGE_DNS)
    tls = writer.get_extra_info("ssl_object")
    assert tls.selected_alpn_protocol() == alpn
    der = tls.getpeercert(binary_form=True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(der)


def pair(mesh: World) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    chain, _, _ = mesh.ca.sign(key.public_key(), "spiffe://cluster.local/ns/meshlog-system/sa/meshlog-xds-edge")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), chain.encode()


async def test_a_renewed_certificate_is_what_the_next_connection_sees(mesh: World) -> None:
    current = pair(mesh)
    server = await asyncio.start_server(
        lambda _reader, writer: writer.transport.abort(), "127.0.0.1", 0, ssl=server_context(lambda: current)
    )
    port = server.sockets[0].getsockname()[1]
    seen: list[int] = []
    for _ in range(3):
        seen.append((await presented(port, mesh.ca.root_pem)).serial_number)
        expected = x509.load_pem_x509_certificate(current[1]).serial_number
        assert seen[-1] == expected
        current = pair(mesh)
    assert len(set(seen)) == 3
    server.close()
    await server.wait_closed()


class Noted(Http2Connection):
    """A connection whose transport a test may close, as asyncio itself does when the client closes."""

    below: asyncio.Transport
    opened: asyncio.Queue[Noted]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.below = transport
        super().connection_made(transport)
        self.opened.put_nowait(self)


async def test_a_connection_that_is_closing_already_can_still_be_cut_off(mesh: World) -> None:
    """To close TLS twice would make its `abort` do nothing."""
    opened: asyncio.Queue[Noted] = asyncio.Queue()
    lost = asyncio.Event()

    async def nothing(_call: GrpcCall) -> None:
        pass

    def accepted() -> Noted:
        connection = Noted(lambda _: nothing, Http2Limits(), closed=lambda _: lost.set())
        connection.opened = opened
        return connection

    current = pair(mesh)
    server = await asyncio.get_running_loop().create_server(
        accepted, "127.0.0.1", 0, ssl=server_context(lambda: current), ssl_shutdown_timeout=600.0
    )
    trust = ssl.create_default_context(cadata=mesh.ca.root_pem)
    trust.set_alpn_protocols(["h2"])
    port = server.sockets[0].getsockname()[1]
    _, client = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=EDGE_DNS)
    client.transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue]
    connection = await opened.get()
    connection.below.close()
    connection.close()
    connection.abort()
    await asyncio.wait_for(lost.wait(), 5)
    client.transport.abort()
    server.close()
    await server.wait_closed()


def test_without_a_certificate_nothing_is_listened_on() -> None:
    with pytest.raises(BadInputError, match="no certificate"):
        server_context(lambda: None)


async def test_a_client_of_another_protocol_is_not_served(mesh: World) -> None:
    edge = await mesh.edge()
    context = ssl.create_default_context(cadata=mesh.ca.root_pem)
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.server.port, ssl=context, server_hostname=EDGE_DNS)
    writer.write(b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n")
    await asyncio.wait_for(reader.read(-1), 5)
    writer.transport.abort()
    assert edge.counters.opened == 0
