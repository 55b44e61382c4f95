"""Over real sockets: connections before TLS, in its handshake and before a token, from two addresses of loopback."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from services.xds_edge.app import App
from shared.records.snapshot import CDS
from tests.integration.xds_edge.client import Client
from tests.integration.xds_edge.names import EDGE_DNS, POD
from tests.integration.xds_edge.world import World, world
from tests.waiting import eventually

HOSTILE = "127.0.0.2"
HELLO = b"\x16\x03\x01\x02\x00\x01"
"""The beginning of a TLS handshake."""


class Peer:
    """One TCP connection, with TLS or without."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ended(self, *, within: float = 5.0) -> bool:
        """Whether the other side ends it in time, in whichever way."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(within):
                try:
                    while await self.reader.read(65_536):
                        pass
                except TimeoutError:
                    return False
        return True

    @property
    def open(self) -> bool:
        return not self.reader.at_eof() and self.reader.exception() is None


async def connected(edge: App, *, source: str = HOSTILE, tls: ssl.SSLContext | None = None) -> Peer:
    name = EDGE_DNS if tls is not None else None
    port = edge.server.port
    return Peer(
        *await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name, local_addr=(source, 0))
    )


def trust(mesh: World, *alpn: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=mesh.ca.root_pem)
    context.set_alpn_protocols([*alpn] or ["h2"])
    return context


@contextlib.asynccontextmanager
async def crowd(edge: App, count: int, *, tls: ssl.SSLContext | None = None) -> AsyncGenerator[list[Peer]]:
    """So many connections of the hostile address; those that fail at once are left out."""
    found = await asyncio.gather(*(connected(edge, tls=tls) for _ in range(count)), return_exceptions=True)
    peers = [one for one in found if isinstance(one, Peer)]
    try:
        yield peers
    finally:
        for peer in peers:
            peer.writer.transport.abort()


async def serving(mesh: World, **settings: Any) -> App:
    await mesh.compiler.publish({"web": {CDS: {"c": b"cluster"}}}, {POD: ("u1", "web")})
    return await mesh.edge(**settings)


async def served(client: Client) -> None:
    await client.send(CDS)
    assert [resource.name for resource in (await client.receive(5)).resources] == ["c"]


async def test_silent_connections_cost_no_tls_and_are_bounded_for_each_address(mesh: World) -> None:
    edge = await serving(mesh, waiting_connections=80)
    async with crowd(edge, 60), mesh.client(edge, POD, "u1") as member:
        await served(member)
        await eventually(lambda: edge.counters.closed["address-full"] == 50, within=5, what="the others are reset")
        assert edge.server.gate.waiting == 10
        assert edge.server.gate.unproven == 0
    await eventually(lambda: edge.server.gate.waiting == 0, within=5, what="nothing is left of them")


async def test_who_says_nothing_is_let_go(mesh: World) -> None:
    edge = await serving(mesh, handshake_timeout=0.2)
    async with crowd(edge, 3) as peers:
        assert all([await peer.ended() for peer in peers])
    assert edge.counters.closed["hello-timeout"] == 3


async def test_who_does_not_speak_tls_is_let_go_at_once(mesh: World) -> None:
    edge = await serving(mesh)
    async with crowd(edge, 1) as peers:
        peers[0].writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await peers[0].ended(within=2)
    assert edge.counters.closed["not-tls"] == 1


async def test_a_handshake_that_stalls_is_given_up(mesh: World) -> None:
    edge = await serving(mesh, handshake_timeout=0.3)
    async with crowd(edge, 3) as peers:
        for peer in peers:
            peer.writer.write(HELLO)
        assert all([await peer.ended() for peer in peers])
    await eventually(lambda: edge.counters.closed["tls"] == 3, within=5, what="they are counted")
    await eventually(lambda: edge.server.gate.unproven == 0, within=5, what="their places are free")


async def test_who_shows_no_token_is_let_go(mesh: World) -> None:
    edge = await serving(mesh, prove_within=0.3)
    async with crowd(edge, 3, tls=trust(mesh)) as peers:
        assert all([await peer.ended() for peer in peers])
    assert edge.counters.closed["unproven"] == 3


async def test_one_address_that_takes_all_places_in_tls_keeps_no_other_out(mesh: World) -> None:
    edge = await serving(mesh, unproven_connections=8)
    async with crowd(edge, 8, tls=trust(mesh)):
        assert edge.server.gate.unproven == 8
        async with mesh.client(edge, POD, "u1") as member:
            await served(member)
            assert edge.counters.closed["displaced"] == 1
            assert edge.server.gate.unproven == 7
            assert edge.server.gate.proven == 1


async def test_stalled_handshakes_of_one_address_keep_no_other_out(mesh: World) -> None:
    edge = await serving(mesh, unproven_connections=8, handshake_timeout=20.0)
    async with crowd(edge, 30) as peers:
        for peer in peers:
            peer.writer.write(HELLO)
        await eventually(lambda: edge.server.gate.unproven == 8, within=5, what="all places are taken")
        async with mesh.client(edge, POD, "u1") as member:
            await served(member)


@pytest.mark.parametrize("alpn", [("http/1.1",), ("h2c", "spdy/3")])
async def test_a_client_that_does_not_agree_to_h2_is_not_served(mesh: World, alpn: tuple[str, ...]) -> None:
    edge = await serving(mesh)
    async with crowd(edge, 1, tls=trust(mesh, *alpn)) as peers:
        assert await peers[0].ended(within=2)
    assert edge.counters.closed["alpn"] == 1


async def test_a_client_without_alpn_is_not_served(mesh: World) -> None:
    edge = await serving(mesh)
    async with crowd(edge, 1, tls=ssl.create_default_context(cadata=mesh.ca.root_pem)) as peers:
        assert await peers[0].ended(within=2)
    assert edge.counters.closed["alpn"] == 1


def old(mesh: World, version: ssl.TLSVersion, ciphers: str) -> ssl.SSLContext:
    context = trust(mesh)
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_tls_is_refused(mesh: World, version: ssl.TLSVersion) -> None:
    edge = await serving(mesh)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await connected(edge, tls=old(mesh, version, "ALL"))


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-CCM8"])
async def test_suites_that_http2_forbids_are_refused(mesh: World, cipher: str) -> None:
    edge = await serving(mesh)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await connected(edge, tls=old(mesh, ssl.TLSVersion.TLSv1_2, cipher))


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"])
async def test_tls_1_2_with_a_good_suite_is_served(mesh: World, cipher: str) -> None:
    edge = await serving(mesh)
    peer = await connected(edge, tls=old(mesh, ssl.TLSVersion.TLSv1_2, cipher))
    assert peer.writer.get_extra_info("cipher")[0] == cipher
    peer.writer.transport.abort()


async def test_two_edges_share_a_port(mesh: World) -> None:
    first = await serving(mesh, reuse_port=True)
    second = await mesh.edge("edge-1", reuse_port=True, port=first.server.port)
    assert first.server.port == second.server.port


async def test_an_edge_that_stops_waits_for_nobody(mesh: World) -> None:
    edge = await serving(mesh, handshake_timeout=30.0, prove_within=30.0)
    async with crowd(edge, 3), crowd(edge, 3) as begun, crowd(edge, 3, tls=trust(mesh)):
        for peer in begun:
            peer.writer.write(HELLO)
        await eventually(lambda: edge.server.gate.unproven == 6, within=5, what="some are in TLS")
        await asyncio.wait_for(mesh.stop_edge(edge), 5)
        assert edge.server.gate.waiting == edge.server.gate.unproven == 0


async def test_members_are_served_while_addresses_come_and_go(mesh: World) -> None:
    edge = await serving(mesh, waiting_connections=160, unproven_connections=8)
    stop = asyncio.Event()

    async def churn() -> None:
        while not stop.is_set():
            async with crowd(edge, 30) as peers:
                for peer in peers[::2]:
                    peer.writer.write(HELLO)
                await asyncio.sleep(0.05)

    churning = asyncio.ensure_future(churn())
    for _ in range(5):
        async with mesh.client(edge, POD, "u1") as member:
            await served(member)
    stop.set()
    await churning
    await eventually(lambda: edge.server.gate.waiting == 0, within=10, what="nothing is left of them")


def test_all_of_it_holds_on_the_loop_that_the_edge_runs_on(tmp_path: Path) -> None:
    """Tests run on asyncio's own loop, an edge on uvloop: they differ in TLS and in the owner of a socket."""

    async def scenario() -> None:
        async with world(tmp_path) as mesh:
            edge = await serving(mesh, unproven_connections=8, waiting_connections=80, handshake_timeout=1.0)
            async with crowd(edge, 30) as silent, crowd(edge, 8, tls=trust(mesh)):
                for peer in silent[:5]:
                    peer.writer.write(HELLO)
                async with mesh.client(edge, POD, "u1") as member:
                    await served(member)
                    assert edge.server.gate.proven == 1
                assert await silent[0].ended()
            async with crowd(edge, 1, tls=ssl.create_default_context(cadata=mesh.ca.root_pem)) as peers:
                assert await peers[0].ended(within=2)
            async with crowd(edge, 1) as peers:
                peers[0].writer.write(b"GET")
                assert await peers[0].ended(within=2)
            await eventually(lambda: edge.server.gate.waiting == 0, within=5, what="the silent are let go")
            assert edge.counters.closed["not-tls"] == 1
            assert edge.counters.closed["alpn"] == 1

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
