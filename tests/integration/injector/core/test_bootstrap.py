"""The bootstrap in a real Envoy: it reaches an edge with the pod's token, believes only that edge, answers probes."""

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from grpc import aio

from services.injector.core.patch import with_sidecar
from services.injector.core.probes import Probe
from shared.meshconfig.pods import MeshSpec
from tests.integration.injector.edge import Authority, Edge, Volume, text_of
from tests.integration.injector.sidecar import POD, Sidecar
from tests.ports import free_port
from tests.programs import envoy_binary
from tests.unit.injector.pods import INSTALLATION, pod
from tests.waiting import eventually

pytestmark = pytest.mark.envoy


@pytest.fixture
async def edge() -> AsyncGenerator[tuple[Edge, Authority]]:
    authority = Authority()
    async with Edge(*authority.issue(INSTALLATION.edge_identity)) as made:
        yield made, authority


@pytest.fixture
async def stack() -> AsyncGenerator[AsyncExitStack]:
    async with AsyncExitStack() as made:
        yield made


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "volume")


@pytest.fixture
def started() -> Generator[list[Sidecar]]:
    every: list[Sidecar] = []
    yield every
    for each in every:
        each.envoy.stop()


def test_envoy_itself_finds_the_bootstrap_valid(tmp_path: Path) -> None:
    """Every kind of probe, by mark and by user id."""
    made = pod()
    made["spec"]["containers"].append(
        {
            "name": "other",
            "livenessProbe": {"grpc": {"port": 9000, "service": "up"}},
            "readinessProbe": {"httpGet": {"port": 8443, "scheme": "HTTPS"}},
            "startupProbe": {"tcpSocket": {"port": 9000}, "periodSeconds": 1},
        }
    )
    volume = Volume(tmp_path / "volume")
    volume.write(token="t", bundle=Authority().pem)
    for mark in (0, 7):
        installation = msgspec.structs.replace(INSTALLATION, proxy_mark=mark)
        (proxy,) = [
            each
            for each in with_sidecar(made, installation, MeshSpec())["spec"]["initContainers"]
            if each["name"] == "envoy"
        ]
        variables = {"/var/run/secrets/meshlog": str(volume.path), "$(POD_IP)": "10.1.2.3", "$(HOST_IP)": "fd00::1"}
        arguments: list[str] = proxy["args"]
        for variable, value in variables.items():
            arguments = [each.replace(variable, value) for each in arguments]
        done = subprocess.run(
            [envoy_binary(), *arguments, "--mode", "validate"], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "OK" in done.stdout + done.stderr


async def test_the_stream_carries_the_token_and_follows_its_rotation(
    edge: tuple[Edge, Authority], volume: Volume, tmp_path: Path, started: list[Sidecar]
) -> None:
    serving, authority = edge
    volume.write(token="first", bundle=authority.pem)
    sidecar = Sidecar(serving.port, volume, tmp_path, [])
    started.append(sidecar)
    await eventually(lambda: serving.nodes, within=15.0, what="Envoy asks for its configuration")
    assert serving.tokens[0] == "Bearer first"
    assert serving.nodes[0] == "shop/web-1"
    assert serving.clusters[0] == "web.shop"
    await sidecar.answers(15902, "/meshlog/ready", 200)
    volume.write(token="second", bundle=authority.pem)

    async def reconnects() -> bool:
        serving.cut()
        await asyncio.sleep(0.1)
        return serving.tokens[-1] == "Bearer second"

    await eventually(reconnects, within=15.0, what="a new stream carries the new token")
    await sidecar.answers(15902, "/meshlog/ready", 200)


async def test_until_an_edge_has_answered_the_pod_is_not_ready(
    volume: Volume, tmp_path: Path, started: list[Sidecar]
) -> None:
    volume.write(token="t", bundle=Authority().pem)
    sidecar = Sidecar(free_port(), volume, tmp_path, [])
    started.append(sidecar)
    await sidecar.holds_back()


@pytest.mark.parametrize("wrong", ["identity", "authority"])
async def test_an_edge_that_is_none_is_told_no_token(
    wrong: str, volume: Volume, tmp_path: Path, started: list[Sidecar], stack: AsyncExitStack
) -> None:
    authority = Authority()
    uri = "spiffe://cluster.local/ns/shop/sa/thief" if wrong == "identity" else INSTALLATION.edge_identity
    signer = Authority() if wrong == "authority" else authority
    false_edge = await stack.enter_async_context(Edge(*signer.issue(uri)))
    volume.write(token="secret", bundle=authority.pem)
    sidecar = Sidecar(false_edge.port, volume, tmp_path, [])
    started.append(sidecar)

    async def failed() -> bool:
        statistics = f"http://127.0.0.1:{sidecar.admin}/stats?filter=meshlog-edge.ssl.fail_verify"
        text = await asyncio.to_thread(text_of, statistics)
        return any(int(line.rpartition(" ")[2]) for line in text.splitlines())

    await eventually(failed, within=15.0, what="Envoy refuses the certificate")
    assert false_edge.tokens == []


async def test_a_new_trust_bundle_is_followed_without_a_restart(
    volume: Volume, tmp_path: Path, started: list[Sidecar], stack: AsyncExitStack
) -> None:
    new = Authority("new")
    serving = await stack.enter_async_context(Edge(*new.issue(INSTALLATION.edge_identity)))
    volume.write(token="t", bundle=Authority("old").pem)
    sidecar = Sidecar(serving.port, volume, tmp_path, [])
    started.append(sidecar)
    await sidecar.holds_back()
    assert serving.tokens == []
    volume.write(token="t", bundle=new.pem)
    await eventually(lambda: serving.tokens, within=15.0, what="the edge is believed")


class _Application(http.server.BaseHTTPRequestHandler):
    seen: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Host", "")))
        self.send_response(200 if self.path.startswith("/ready") else 418)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class calls it so)
        pass


@pytest.fixture
def application() -> Generator[tuple[int, list[tuple[str, str]]]]:
    _Application.seen = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Application)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1], _Application.seen
    server.shutdown()
    server.server_close()
    thread.join()


async def test_probes_reach_the_application_and_tell_the_truth(
    edge: tuple[Edge, Authority],
    volume: Volume,
    tmp_path: Path,
    started: list[Sidecar],
    application: tuple[int, list[tuple[str, str]]],
) -> None:
    serving, authority = edge
    port, seen = application
    volume.write(token="t", bundle=authority.pem)
    dead = free_port()

    def probe(phase: Any, container: str, to: int, how: Any, scheme: Any) -> Probe:
        made = Probe(phase=phase, container=container, port=to, how=how, scheme=scheme, timeout=1.0, period=1.0)
        return msgspec.structs.replace(made, target="/ready?deep=1" if container == "web" else "/else")

    probes = [
        probe("readiness", "web", port, "forward", "http"),
        probe("readiness", "not-well", port, "forward", "http"),
        probe("readiness", "dead", dead, "forward", "http"),
        probe("liveness", "web", port, "check", "tcp"),
        probe("liveness", "dead", dead, "check", "tcp"),
    ]
    sidecar = Sidecar(serving.port, volume, tmp_path, probes)
    started.append(sidecar)
    await sidecar.answers(15902, "/meshlog/readiness/web", 200)
    assert seen[-1] == ("/ready?deep=1", f"{POD}:{port}")
    await sidecar.answers(15902, "/meshlog/readiness/not-well", 418)
    await sidecar.answers(15902, "/meshlog/readiness/dead", 503)
    await sidecar.answers(15901, "/meshlog/liveness/web", 200)
    await sidecar.answers(15901, "/meshlog/liveness/dead", 503)
    with socket.socket() as late:
        late.bind(("127.0.0.1", dead))
        late.listen()
        await sidecar.answers(15901, "/meshlog/liveness/dead", 200)
    await sidecar.answers(15901, "/meshlog/liveness/dead", 503)


class _Health:
    """gRPC's health service, as bytes: a state of 1 is SERVING, 2 is not."""

    def __init__(self) -> None:
        self.state = 1
        self.asked: list[bytes] = []

    async def start(self) -> tuple[aio.Server, int]:
        async def check(request: bytes, _context: Any) -> bytes:
            self.asked.append(request)
            return bytes([8, self.state])

        server = aio.server()
        method = grpc.unary_unary_rpc_method_handler(check)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port


async def test_probes_over_tls_and_grpc_tell_the_truth(
    edge: tuple[Edge, Authority],
    volume: Volume,
    tmp_path: Path,
    started: list[Sidecar],
    application: tuple[int, list[tuple[str, str]]],
) -> None:
    serving, authority = edge
    volume.write(token="t", bundle=authority.pem)
    _, seen = application
    secure = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Application)
    key, certificate = Authority("of the application").issue("spiffe://x/app", "app.example")
    (tmp_path / "app.pem").write_bytes(key + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "app.pem")
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    thread = threading.Thread(target=secure.serve_forever)
    thread.start()
    health = _Health()
    server, port = await health.start()

    def probe(container: str, to: int, how: Any, scheme: Any, **more: str) -> Probe:
        made = Probe(phase="liveness", container=container, port=to, how=how, scheme=scheme, timeout=1, period=1)
        return msgspec.structs.replace(made, **more)

    probes = [
        probe("tls", secure.server_address[1], "forward", "https", target="/ready"),
        probe("not-well", secure.server_address[1], "forward", "https", target="/else"),
        probe("rpc", port, "check", "grpc", service="shop.Cart"),
    ]
    sidecar = Sidecar(serving.port, volume, tmp_path, probes)
    started.append(sidecar)
    try:
        await sidecar.answers(15901, "/meshlog/liveness/tls", 200)
        assert seen[-1][0] == "/ready"
        await sidecar.answers(15901, "/meshlog/liveness/not-well", 418)
        await sidecar.answers(15901, "/meshlog/liveness/rpc", 200)
        assert b"shop.Cart" in health.asked[-1]
        health.state = 2
        await sidecar.answers(15901, "/meshlog/liveness/rpc", 503)
    finally:
        secure.shutdown()
        secure.server_close()
        thread.join()
        await server.stop(None)


def test_the_documents_beside_the_token_are_json() -> None:
    annotations = with_sidecar(pod(), INSTALLATION, MeshSpec())["metadata"]["annotations"]
    for name in ("sidecar.meshlog.io/token-source", "sidecar.meshlog.io/trust-source"):
        (resource,) = json.loads(annotations[name])["resources"]
        assert resource["@type"].endswith("v3.Secret")
