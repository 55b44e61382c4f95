"""The ingestor as a process, with a real NATS: ready, killed, started again, and bad input reported in one sentence."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from deploy.devcluster.apiserver import ApiServer
from shared.eventlog.chain import ChainVerifier
from shared.records import events
from shared.records.subjects import Streams
from shared.streams.jetstream import JetStreamLogs
from tests.integration.eventlog.test_full import limit
from tests.nats_server import NatsServer
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = pytest.mark.nats


@pytest.fixture
async def api() -> AsyncGenerator[ApiServer]:
    made = ApiServer(addresses=[("127.0.0.1", 0)])
    await made.start()
    yield made
    await made.stop()


class Process:
    """`meshlog run ingestor`."""

    def __init__(self, *arguments: str, cluster: str = "c1") -> None:
        self.port = free_port()
        self._arguments = [*arguments, "--http-port", str(self.port), "--cluster", cluster, "--log-format", "text"]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.ingestor",
            *self._arguments,
            stderr=asyncio.subprocess.PIPE,
            env={key: value for key, value in os.environ.items() if not key.startswith("KUBERNETES_")},
        )
        return self._process

    async def ready(self) -> None:
        def probe() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                    return answer.status == 200
            except urllib.error.HTTPError as error:
                error.close()
                return False

        await eventually(lambda: asyncio.to_thread(probe), within=20.0, what="the ingestor is ready")

    async def answer(self, path: str) -> str:
        """Returns the body of one of its pages, whatever the status."""

        def get() -> str:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                    return answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.read().decode()

        return await asyncio.to_thread(get)

    async def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        _, error = await self._process.communicate()
        assert b"Traceback" not in error, error.decode()
        assert self._process.returncode is not None
        return self._process.returncode


async def names(logs: JetStreamLogs) -> list[str]:
    """Names of the service accounts in the log, in order, the chain checked."""
    verifier, found = ChainVerifier(), list[str]()
    log = await logs.open(Streams().events)
    async for record in log.read():
        verifier.fold(record)
        event = events.decode(record.payload)
        if event.kind == "ServiceAccount":
            found.append(event.name)
    return found


async def test_killed_at_any_moment_each_change_is_in_the_log_once(api: ApiServer, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(api.kubeconfig(f"https://127.0.0.1:{api.bound[0][1]}"))
    server = NatsServer(tmp_path)
    server.start()
    logs = JetStreamLogs.connect(server.access, Streams())
    process = Process("--nats-url", server.url, "--kubeconfig", str(kubeconfig))
    wanted: list[str] = []
    try:
        for round_number in range(2):
            await process.start()
            await process.ready()
            for number in range(40):
                name = f"r{round_number}-{number}"
                wanted.append(name)
                await api.cluster.create("serviceaccounts", {"metadata": {"name": name, "namespace": "default"}})
            if round_number < 1:
                await process.end(signal.SIGKILL)

        async def complete() -> bool:
            return sorted(await names(logs)) == sorted(wanted)

        await eventually(complete, within=10.0, what="each account is there once")
        assert await process.end(signal.SIGTERM) == 0
    finally:
        await process.end(signal.SIGKILL)
        await logs.close()
        server.stop()


async def test_on_a_full_log_it_says_so_waits_and_goes_on_without_a_restart(api: ApiServer, tmp_path: Path) -> None:
    """Fault 39: not ready, with the stream and its limit; a metric; and all changes arrive once there is room."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(api.kubeconfig(f"https://127.0.0.1:{api.bound[0][1]}"))
    server = NatsServer(tmp_path)
    server.start()
    logs = JetStreamLogs.connect(server.access, Streams())
    process = Process("--nats-url", server.url, "--kubeconfig", str(kubeconfig))
    wanted: list[str] = []
    try:
        await process.start()
        await process.ready()
        log = await logs.open(Streams().events)
        await limit(log, max_msgs=(await log.extent()).count + 3)
        for number in range(20):
            wanted.append(f"a{number}")
            await api.cluster.create("serviceaccounts", {"metadata": {"name": wanted[-1], "namespace": "default"}})

        async def refuses() -> bool:
            said = await process.answer("/readyz")
            return "MESH_EVENTS: the log is full (maximum messages exceeded)" in said and "--max-msgs" in said

        await eventually(refuses, within=10.0, what="it is not ready, and says why")
        assert "meshlog_ingestor_log_full 1" in await process.answer("/metrics")
        await limit(log, max_msgs=-1)

        async def complete() -> bool:
            return sorted(await names(logs)) == sorted(wanted)

        await eventually(complete, within=10.0, what="what waited has arrived")
        await process.ready()
        assert "meshlog_ingestor_log_full 0" in await process.answer("/metrics")
        assert await process.end(signal.SIGTERM) == 0
    finally:
        await process.end(signal.SIGKILL)
        await logs.close()
        server.stop()


async def test_without_a_cluster_it_ends_with_one_sentence(tmp_path: Path) -> None:
    process = Process("--kubeconfig", str(tmp_path / "missing"))
    started = await process.start()
    assert started.stderr is not None
    text = (await started.stderr.read()).decode()
    assert await started.wait() == 2
    assert "no access to a cluster" in text
    assert "Traceback" not in text
