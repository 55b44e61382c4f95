"""Real Envoys with what the compiler tells them, on loopback: who gets through, and what the others see.

Everything is as in a mesh but for the redirect: listeners are bound to free ports, and chains are matched by those.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster

from cli.offline.static_bootstrap import bootstrap
from services.compiler.core.offline import compile_events
from services.injector.core.denial_response import BODY
from shared.records.snapshot import Snapshot
from tests.integration.compiler.envoys import Authority, running, with_denial
from tests.ports import free_port
from tests.unit.compiler import objects

pytestmark = pytest.mark.envoy


class Places:
    """Free ports that stand for the addresses of a mesh."""

    def __init__(self) -> None:
        self.inbound: dict[str, int] = {}
        """Pod → port that its inbound listener is bound to."""
        self.outbound: dict[str, int] = {}


def on_loopback(config: Bootstrap, *, own: str, calls: str, open_port: int, application: int, places: Places) -> None:
    """Bind a proxy's listeners to free ports; what it calls is the inbound port of the pod behind the service."""
    for cluster in config.static_resources.clusters:
        if cluster.type != Cluster.DiscoveryType.STATIC:
            continue
        for group in cluster.load_assignment.endpoints:
            for item in group.lb_endpoints:
                address = item.endpoint.address.socket_address
                pod = {"10.244.2.1": "v1", "10.244.2.3": "db"}.get(address.address)
                if pod is not None:
                    address.address, address.port_value = "127.0.0.1", places.inbound[pod]
                elif address.address == "127.0.0.1":
                    address.port_value = application
    for listener in config.static_resources.listeners:
        port = (places.outbound if listener.name == "outbound" else places.inbound)[own]
        listener.address.socket_address.address = "127.0.0.1"
        listener.address.socket_address.port_value = port
        kept = [item for item in listener.listener_filters if not item.name.endswith("original_dst")]
        del listener.listener_filters[:]
        listener.listener_filters.extend(kept)
        for chain in listener.filter_chains:
            match = chain.filter_chain_match
            if chain.name == calls:
                match.Clear()
                match.destination_port.value = port
            elif match.destination_port.value == open_port and listener.name == "inbound":
                match.destination_port.value = port


class World:
    def __init__(self, places: Places) -> None:
        self.places = places

    async def request(self, who: str, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.places.outbound[who]}{path}"
        async with ClientSession() as session, session.request(method, url, headers=headers) as answer:
            return answer.status, await answer.text()


async def _application(request: web.Request) -> web.Response:
    """Says who calls, as its own sidecar has it."""
    parts = request.headers.get("x-forwarded-client-cert", "").split(";")
    return web.Response(text=",".join(part for part in parts if part.startswith("URI=")))


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that speaks first, as databases do."""
    writer.write(b"hello\n")
    with contextlib.suppress(ConnectionError):
        await writer.drain()
        await reader.read(1)
    writer.close()


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return compile_events(objects.bookstore())


@pytest.fixture
async def world(snapshot: Snapshot, tmp_path: Path) -> AsyncGenerator[World]:
    """The buyer, the thief, version 1 of the store, the database, and an intruder with a proxy made by hand."""
    authority, places = Authority(), Places()
    for pod in ("buyer", "thief", "v1", "db", "intruder"):
        places.inbound[pod], places.outbound[pod] = free_port(), free_port()
    runner = web.AppRunner(_application_of())
    await runner.setup()
    http, tcp = free_port(), free_port()
    await web.TCPSite(runner, "127.0.0.1", http).start()
    greeter = await asyncio.start_server(_greet, "127.0.0.1", tcp)
    first, bytes_ = "outbound|store/store-v1|80", "outbound|store/db|5432"
    plan = {
        # name: whose view, whose certificate, what it calls, its port, its application
        "v1": ("store/v1-0", ("store", "store-v1"), bytes_, 8080, http),
        "db": ("store/db-0", ("store", "db"), "", 5432, tcp),
        "buyer": ("buy/buyer-0", ("buy", "buyer"), first, 0, http),
        "thief": ("buy/thief-0", ("buy", "thief"), first, 0, http),
        # Has the configuration of the store, and the identity of the thief.
        "intruder": ("store/v1-0", ("buy", "thief"), bytes_, 8080, http),
    }
    async with contextlib.AsyncExitStack() as stack:
        for name, (pod, account, calls, port, application) in plan.items():
            workload_class = snapshot.proxies[f"{objects.CLUSTER}/{pod}"].workload_class
            config = bootstrap(snapshot, workload_class, authority.issue(*account))
            on_loopback(config, own=name, calls=calls, open_port=port, application=application, places=places)
            with_denial(config)
            await stack.enter_async_context(running(config, tmp_path, name))
        yield World(places)
    greeter.close()
    await runner.cleanup()


def _application_of() -> web.Application:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", _application)
    return application


async def first_bytes(port: int, sent: bytes = b"") -> bytes:
    """What a raw connection gets before it ends; a reset is nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.read(100), 5)
    except ConnectionError:
        return b""
    finally:
        writer.close()


SAID = [
    (b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.0 403"),
    (b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n", b"HTTP/1.1 403"),
    (b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", b"HTTP/1.1 404"),
    # The preface of HTTP/2, and its answer, a frame of settings.
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", b"\0\0"),
    (b"\x16\x03\x01\x00\xa1\x01\x00\x00\x9d\x03\x03", b""),
    (b"PING\r\n", b""),
    (b"", b""),
]
"""What a client says that is denied, and how the answer begins: clients of anything but HTTP are closed, also one
that waits for the server to speak."""


async def test_policy_is_what_callers_see(world: World) -> None:
    """Allowed calls pass, with the caller's identity; all others end at once, each as a user would expect."""
    status, caller = await world.request("buyer", "GET", "/books/1?sort=x")
    assert (status, caller) == (200, "URI=spiffe://cluster.local/ns/buy/sa/buyer")
    forged = {"x-forwarded-client-cert": "URI=spiffe://cluster.local/ns/store/sa/db", "client": "buyer-1"}
    status, caller = await world.request("buyer", "POST", "/buy-this", forged)
    assert (status, caller) == (200, "URI=spiffe://cluster.local/ns/buy/sa/buyer")

    assert (await world.request("buyer", "POST", "/books"))[0] == 403, "a method that no match has"
    assert (await world.request("buyer", "GET", "/buy", {"client": "other"}))[0] == 403, "a header that does not match"
    assert (await world.request("buyer", "GET", "/x/books"))[0] == 403, "a path is anchored at its start"
    assert (await world.request("buyer", "GET", "/x?/books"))[0] == 403, "a query string is no path"
    assert (await world.request("buyer", "GET", "/other"))[0] == 403

    assert (await world.request("thief", "GET", "/books"))[0] == 200
    assert (await world.request("thief", "GET", "/buy", {"client": "buyer"}))[0] == 403
    assert (await world.request("thief", "GET", "//books/../buy", {"client": "buyer"}))[0] == 403

    # What the caller's sidecar passes on, for the called one to decide.
    outbound = world.places.outbound["buyer"]
    for word in (b"TLS/1.2", b"tcp"):
        head = b"GET /books HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: " + word
        assert (await first_bytes(outbound, head + b"\r\n\r\n")).startswith(b"HTTP/1.1 200"), word
    tunnel = await first_bytes(outbound, b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n")
    assert tunnel.startswith(b"HTTP/1.1 403"), "no target opens it"

    plaintext = b"GET /books HTTP/1.1\r\nHost: a\r\n\r\n"
    assert await first_bytes(world.places.inbound["v1"], plaintext) == b"", "plaintext is reset"
    assert await first_bytes(world.places.outbound["v1"]) == b"hello\n", "bytes pass, the server may speak first"
    assert await first_bytes(world.places.outbound["intruder"]) == b"", "not a byte for who has no right"

    # The database may call nothing.
    denied = world.places.outbound["db"]
    status, text = await world.request("db", "GET", "/books")
    assert (status, text) == (403, BODY), "a client of HTTP is told"
    for sent, answer in SAID:
        assert (await first_bytes(denied, sent))[: len(answer) or 100] == answer, sent
