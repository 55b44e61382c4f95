"""Strangers at the probe ports of a real Envoy: what they send never reaches the application."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from services.injector.core import probes as probing
from services.injector.core.probe_listeners import MAX_CONNECTIONS, NODE_CONNECTIONS, REQUEST_SECONDS
from shared.errors import BadInputError
from tests.attacks.probe_bypass import answers, ask, bypassed, request, requests_like_the_kubelets, status_of
from tests.integration.injector.applications import RawApplication
from tests.integration.injector.edge import Authority, Edge, Volume
from tests.integration.injector.sidecar import NODE, POD, Sidecar
from tests.unit.injector.pods import INSTALLATION
from tests.waiting import eventually

pytestmark = pytest.mark.envoy

PATH = "/meshlog/readiness/web"
Start = Callable[..., Any]


@pytest.fixture
async def stack() -> AsyncGenerator[AsyncExitStack]:
    async with AsyncExitStack() as made:
        yield made


@pytest.fixture
async def start(stack: AsyncExitStack, tmp_path: Path) -> Start:
    """Start a proxy for a container with these probes; its application, and the address of each probe port."""

    async def started(
        application: RawApplication | None = None, *, address: str = POD, **probes: dict[str, Any]
    ) -> tuple[RawApplication, dict[str, tuple[str, int]]]:
        authority = Authority()
        edge = await stack.enter_async_context(Edge(*authority.issue(INSTALLATION.edge_identity)))
        volume = Volume(tmp_path / "volume")
        volume.write(token="t", bundle=authority.pem)
        application = application or RawApplication()
        stack.callback(application.stop)
        container = {
            "name": "web",
            "ports": [{"name": "http", "containerPort": application.port}],
            **{f"{phase}Probe": {"httpGet": {"port": "http"} | action} for phase, action in probes.items()},
        }
        _, found = probing.rewrite(container)
        sidecar = Sidecar(edge.port, volume, tmp_path, found, address=address, ipv6=":" in address)
        stack.callback(sidecar.envoy.stop)
        await sidecar.answers(15902, "/meshlog/ready", 200)
        known = {phase: sidecar.ports[port] for phase, port in probing.PORTS.items() if port in sidecar.ports}
        return application, {phase: ("127.0.0.1", port) for phase, port in known.items()}

    return started


def kubelets(target: str, application: RawApplication, *lines: str, host: str = "") -> bytes:
    """The request that the proxy makes; the order of headers and the case of their names are its own."""
    return "\r\n".join(
        [f"GET {target} HTTP/1.1", f"host: {host or f'{POD}:{application.port}'}", *lines, "", ""]
    ).encode()


def without(raw: bytes, *names: bytes) -> bytes:
    """The request without these headers."""
    return b"\r\n".join(line for line in raw.split(b"\r\n") if line.partition(b":")[0].lower() not in names)


async def test_nothing_but_the_probe_itself_reaches_the_application(start: Start) -> None:
    """Methods, paths, queries, bodies, forms, protocols: 404 or less, and not one byte at the application."""
    application, addresses = await start(readiness={"path": "/ready?deep=1"}, liveness={"path": "/live"}, startup={})
    for phase, address in addresses.items():
        path = f"/meshlog/{phase}/web"
        assert await asyncio.to_thread(bypassed, address, path) == []
        for other in {"readiness", "liveness", "startup"} - {phase}:
            assert status_of(await asyncio.to_thread(ask, address, request(f"/meshlog/{other}/web"))) == "404"
    assert application.seen == []


async def test_every_request_of_the_list_is_answered_or_cut_off_at_once(start: Start) -> None:
    """Ordinary ones by 404: a stranger learns nothing else about the port."""
    address = (await start(readiness={"path": "/ready"}))[1]["readiness"]
    told = {what: status_of(answer) for what, answer in (await asyncio.to_thread(answers, address, PATH)).items()}
    plain = {what: status for what, status in told.items() if what.startswith(("path /", "path ?", "target /"))}
    assert len(plain) > 10
    assert set(plain.values()) == {"404"}


@pytest.mark.parametrize(("what", "sent"), list(requests_like_the_kubelets(PATH)), ids=lambda value: str(value)[:30])
async def test_what_a_stranger_adds_to_the_probes_request_is_dropped(start: Start, what: str, sent: bytes) -> None:
    application, addresses = await start(readiness={"path": "/ready?deep=1"})
    assert status_of(await asyncio.to_thread(ask, addresses["readiness"], sent)) == "200", what
    (seen,) = application.seen
    plain = kubelets("/ready?deep=1", application, "user-agent: kube-probe/1.0", "accept: */*")
    assert without(seen, b"connection") == plain


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/", "/"),
        ("", "/"),
        ("healthz", "/healthz"),
        ("/a%2Fb%25?x=%2F&y", "/a%2Fb%25?x=%2F&y"),
        ("/%zz", "/%25zz"),
        ("/a b/é", "/a%20b/%C3%A9"),
        ("/..//./%2e%2e/", "/..//./%2e%2e/"),
        ("/$(POD_IP)/$$/%REQ(x)%/\\1", "/$%28POD_IP%29/$$/%25REQ%28x%29%25/%5C1"),
        ("//elsewhere.example/x", "/x"),
        ("/x#fragment", "/x"),
        (f"/{'a' * 4000}", f"/{'a' * 4000}"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_the_application_is_asked_for_the_probes_own_target(start: Start, path: str, target: str) -> None:
    application, addresses = await start(readiness={"path": path})
    assert status_of(await asyncio.to_thread(ask, addresses["readiness"], request(PATH))) == "200"
    assert application.seen[0].split(b" ")[1].decode() == target


async def test_headers_that_the_probe_declares_are_asked_of_the_caller_and_sent_by_the_proxy(start: Start) -> None:
    """A stranger who does not know them is not lent them: the answer is not his."""
    declared = [
        {"name": "Host", "value": "web.example"},
        {"name": "Authorization", "value": "Bearer 100%{x} é"},
        {"name": "X-Twice", "value": "a"},
        {"name": "X-Twice", "value": "b"},
        {"name": "X-Empty", "value": ""},
        {"name": "User-Agent", "value": "mine"},
        {"name": "Connection", "value": "upgrade"},
    ]
    application, addresses = await start(readiness={"path": "/ready", "httpHeaders": declared})
    own = [f"{each['name']}: {each['value'].encode().decode('latin-1')}" for each in declared[:-1]]

    def asked(lines: list[str]) -> str:
        head = [f"GET {PATH} HTTP/1.1", *lines, "Connection: close", "", ""]
        return status_of(ask(addresses["readiness"], "\r\n".join(head).encode("latin-1")))

    for missing in (0, 1, 4, 5):
        others = ["Host: other"] * (missing == 0) + own[:missing] + own[missing + 1 :]
        assert await asyncio.to_thread(asked, others) == "404", own[missing]
    assert await asyncio.to_thread(asked, [line.replace("Bearer", "Basic") for line in own]) == "404"
    assert application.seen == []
    assert await asyncio.to_thread(asked, own) == "200"
    lines = ["authorization: Bearer 100%{x} é", "x-twice: a", "x-twice: b", "x-empty: "]
    lines += ["user-agent: mine", "accept: */*"]
    seen = without(application.seen[0], b"connection").split(b"\r\n")
    assert seen == kubelets("/ready", application, *lines, host="web.example").split(b"\r\n")


async def test_an_https_probe_is_sent_over_tls_and_strangers_reach_nothing_behind_it(
    start: Start, tmp_path: Path
) -> None:
    key, certificate = Authority("of the application").issue("spiffe://x/app", "app.example")
    (tmp_path / "app.pem").write_bytes(key + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "app.pem")
    application, addresses = await start(
        RawApplication(context=context), readiness={"path": "/ready", "scheme": "HTTPS"}
    )
    assert await asyncio.to_thread(bypassed, addresses["readiness"], PATH) == []
    assert application.seen == []
    assert status_of(await asyncio.to_thread(ask, addresses["readiness"], request(PATH))) == "200"
    assert application.seen[0].startswith(b"GET /ready HTTP/1.1\r\n")


async def test_a_redirect_counts_and_leads_nowhere(start: Start) -> None:
    """The kubelet would follow it into a 404; without a `location` it takes it for the success that it is."""
    redirect = b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n"
    _, addresses = await start(RawApplication(redirect), readiness={"path": "/ready"})
    answer = await asyncio.to_thread(ask, addresses["readiness"], request(PATH))
    assert status_of(answer) == "302"
    assert b"location" not in answer.lower()


async def test_answers_say_nothing_about_the_proxy_or_its_identity(start: Start) -> None:
    _, addresses = await start(readiness={"path": "/ready"})
    for path in (PATH, "/meshlog/ready", "/else"):
        answer = (await asyncio.to_thread(ask, addresses["readiness"], request(path))).lower()
        assert b"envoy" not in answer
        assert b"web.shop" not in answer, "the account and its namespace"


async def test_what_others_hold_takes_nothing_from_the_nodes_kubelet(start: Start) -> None:
    """They open a connection again for each that is closed; every probe of the node is answered meanwhile."""
    _, addresses = await start(readiness={"path": "/ready"})
    address = addresses["readiness"]
    held: list[socket.socket] = []
    opened = 0

    def hold() -> None:
        nonlocal opened
        for connection in [each for each in held if _is_over(each)]:
            held.remove(connection)
            connection.close()
        while len(held) < MAX_CONNECTIONS + 50:
            held.append(socket.create_connection(address, timeout=3))
            held[-1].setblocking(False)
            opened += 1

    def probe() -> str:
        with socket.create_connection(address, timeout=3, source_address=(NODE, 0)) as connection:
            connection.sendall(request(PATH))
            with suppress(OSError):
                return status_of(connection.recv(4096))
        return "cut off"

    try:
        hold()
        await eventually(lambda: sum(map(_is_over, held)) >= 50, within=5, what="those above the limit are closed")
        answers = []
        for _ in range(20):
            hold()
            answers.append(await asyncio.to_thread(probe))
        assert answers == ["200"] * 20
        assert opened >= MAX_CONNECTIONS + 50 + 20 * 40, "they came again and were refused"
    finally:
        for connection in held:
            connection.close()


@pytest.mark.alone
async def test_the_nodes_connections_are_bounded_too(start: Start) -> None:
    _, addresses = await start(readiness={"path": "/ready"})
    most = MAX_CONNECTIONS + NODE_CONNECTIONS
    held = [
        socket.create_connection(addresses["readiness"], timeout=3, source_address=(NODE, 0)) for _ in range(most + 20)
    ]
    try:
        for connection in held:
            connection.setblocking(False)
        await eventually(lambda: sum(map(_is_over, held)) == 20, within=5, what="those above the limit are closed")
    finally:
        for connection in held:
            connection.close()


async def test_a_pod_with_an_ipv6_address_is_probed_there(start: Start) -> None:
    """From the pod's own address, which is not the node's; the listener answers over IPv4, too."""
    application, addresses = await start(address="::1", readiness={"path": "/ready"})
    port = addresses["readiness"][1]
    for address in ("::1", "127.0.0.1"):
        assert status_of(await asyncio.to_thread(ask, (address, port), request(PATH))) == "200"
    host = f"[::1]:{application.port}"
    plain = kubelets("/ready", application, "user-agent: kube-probe/1.0", "accept: */*", host=host)
    assert [without(seen, b"connection") for seen in application.seen] == [plain] * 2
    assert await asyncio.to_thread(bypassed, ("::1", port), PATH) == []


async def test_connections_that_hold_on_are_ended_and_their_number_is_bounded(start: Start) -> None:
    """Silent ones, halves of a request, and one that goes on talking."""
    application, addresses = await start(readiness={"path": "/ready"})
    address = addresses["readiness"]
    began = time.monotonic()
    held = [socket.create_connection(address, timeout=3) for _ in range(MAX_CONNECTIONS + 50)]
    try:
        for index, connection in enumerate(held):
            connection.setblocking(False)
            if index % 2:
                with suppress(OSError):
                    connection.send(b"GET /meshlog/readiness/web HTTP/1.1\r\nHost: a\r\nX-A:")

        def ended() -> int:
            return sum(_is_over(connection) for connection in held)

        await eventually(lambda: ended() >= 50, within=5, what="connections above the limit are closed")
        assert time.monotonic() - began < REQUEST_SECONDS
        await eventually(lambda: ended() == len(held), within=REQUEST_SECONDS + 5, what="all are closed")
    finally:
        for connection in held:
            connection.close()
    assert application.seen == []
    assert status_of(await asyncio.to_thread(ask, address, request(PATH))) == "200"


def _is_over(connection: socket.socket) -> bool:
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


async def test_a_connection_carries_one_request(start: Start) -> None:
    application, addresses = await start(readiness={"path": "/ready"})
    kept = request(PATH).replace(b"Connection: close\r\n", b"")
    answer = await asyncio.to_thread(ask, addresses["readiness"], kept * 5)
    assert answer.count(b"HTTP/1.1 200") == 1
    assert len(application.seen) == 1


@pytest.mark.parametrize("port", [15000, 15001, 15003, 15010, 15900, 15902, 15999])
@pytest.mark.parametrize("action", ["httpGet", "tcpSocket", "grpc"])
def test_a_probe_of_the_proxys_own_ports_is_refused(action: str, port: int) -> None:
    """By number or by name; 15000 would open the proxy's admin to every caller."""
    for named in (port, "own"):
        if action == "grpc" and named == "own":
            continue
        container = {
            "name": "web",
            "ports": [{"name": "own", "containerPort": port}],
            "livenessProbe": {action: {"port": named}},
        }
        with pytest.raises(BadInputError, match=f"is on port {port}"):
            probing.rewrite(container)
