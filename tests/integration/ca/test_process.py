"""The CA as a process of its own: a real nats-server, Kubernetes over HTTP, `kill -9`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import yaml
from aiohttp import ClientError, ClientSession

from shared.identity.spiffe import SpiffeId
from shared.records.subjects import Streams
from tests.nats_server import NatsServer, connected, running_nats
from tests.ports import free_port
from tests.unit.ca.fake_kubernetes import FakeKubernetes, served
from tests.unit.ca.running import requester
from tests.unit.identity.cluster import Cluster, write
from tests.waiting import eventually

pytestmark = pytest.mark.nats
BUYER = SpiffeId(trust_domain="cluster.local", namespace="bookstore", service_account="bookbuyer")
CONFIG_MAP = "/api/v1/namespaces/bookstore/configmaps/meshlog-trust-bundle"


def kubeconfig(path: Path, address: str, token: str) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "users": [{"name": "u", "user": {"token": token}}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


@contextlib.asynccontextmanager
async def ca_process(server: NatsServer, config: Path, *, log: Path, port: int) -> AsyncGenerator[Process, None]:
    flags = ["--nats-url", server.url, "--kubeconfig", str(config), "--http-port", str(port), "--instance", "ca-1"]
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.ca", *flags, stderr=output, stdout=output, env={**os.environ}
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ready(port: int) -> bool:
    with contextlib.suppress(ClientError):
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as answer:
            return answer.status == 200
    return False


async def test_a_killed_ca_comes_back_with_the_same_root_and_answers_what_waited(tmp_path: Path) -> None:
    cluster, fake = Cluster(), FakeKubernetes()
    token = cluster.token()
    port, log = free_port(), tmp_path / "ca.log"
    with running_nats(tmp_path) as server:
        async with served(fake, "admin") as address, connected(server) as logs, requester(logs) as asking:
            config = kubeconfig(tmp_path / "kubeconfig", address, "admin")
            await write(await logs.open(Streams().events), cluster.bookstore())
            async with ca_process(server, config, log=log, port=port) as first:
                await eventually(lambda: ready(port), within=20, what="the CA is ready")
                one = await asking.request(token, BUYER, within=20)
                await eventually(lambda: CONFIG_MAP in fake.objects, within=10, what="the bundle is in Kubernetes")
                first.send_signal(signal.SIGKILL)
                await first.wait()
            waiting = asyncio.ensure_future(asking.request(token, BUYER, within=30))
            queue = await logs.open(Streams().csrs)
            await eventually(lambda: queue.last(">"), within=10, what="a request waits in the queue")
            async with ca_process(server, config, log=log, port=port) as second:
                two = await waiting
                second.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(second.wait(), 10) == 0
            # Both chains were checked against the one root of the bundle by the requester.
            assert one.bundle_serial == two.bundle_serial
            held = [record.payload async for record in (await logs.open(Streams().certs)).read()]
    written = b"".join([*held, log.read_bytes()])
    parts = [part.encode() for part in token.split(".")[1:]]
    for secret in (*parts, b"PRIVATE KEY", *one.key_pem.splitlines()[1:-1]):
        assert secret not in written
    stores = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert stores
    for path in stores:
        content = path.read_bytes()
        assert not any(secret in content for secret in (*parts, b"PRIVATE KEY")), path


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--key-store", "file", "--no-kubernetes"], "--key-file"),
        (["--provider", "nobody"], "no CA provider"),
        (["--key-store", "drawer"], "secret, file"),
    ],
)
async def test_bad_settings_end_with_one_sentence_and_code_2(flags: list[str], sentence: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.ca", *flags, "--http-port", "0", stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert sentence in said.decode()
    assert "Traceback" not in said.decode()
