"""The edge as a process of its own on a real nats-server: both are killed, it serves, it stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import aiohttp
import pytest

from shared.records.snapshot import CDS, LDS
from shared.streams.jetstream import JetStreamLogs
from tests.integration.xds_edge.client import Client
from tests.integration.xds_edge.names import STREAMS
from tests.integration.xds_edge.world import World, world
from tests.nats_server import NatsServer, running_nats
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = pytest.mark.nats

POD = "shop/web-1"
CLASS = {CDS: {"c": b"cluster"}, LDS: {"l": b"listener"}}


class EdgeProcess:
    """`meshlog run xds-edge`."""

    def __init__(self, mesh: World, nats: NatsServer, **settings: str) -> None:
        self.port = free_port()
        self.http = f"http://127.0.0.1:{free_port()}"
        self.log = mesh.directory / "edge.log"
        self._arguments = {
            "nats-url": nats.url,
            "host": "127.0.0.1",
            "port": str(self.port),
            "http-port": self.http.rpartition(":")[2],
            "state-dir": str(mesh.directory / "state"),
            "key-dir": str(mesh.directory / "key"),
            "token-file": str(mesh.token_file),
            "instance": "edge-0",
            "confirm-within": "0.2",
            "drain": "0.1",
            **settings,
        }
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *, ready: bool = True) -> None:
        flags = [part for name, value in self._arguments.items() for part in (f"--{name}", value)]
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.xds_edge", *flags, stdout=log, stderr=log
            )
        if ready:
            await eventually(self.is_ready, within=20, what="the edge is ready")

    async def is_ready(self) -> bool:
        assert self.process is not None
        if self.process.returncode is not None:
            raise RuntimeError(self.log.read_text())
        async with aiohttp.ClientSession() as session:
            try:
                async with session.get(f"{self.http}/readyz") as answer:
                    return answer.status == 200
            except aiohttp.ClientError as error:
                raise OSError from error

    async def metric(self, name: str) -> float:
        async with aiohttp.ClientSession() as session, session.get(f"{self.http}/metrics") as answer:
            for line in (await answer.text()).splitlines():
                if line.startswith(f"{name} "):
                    return float(line.rpartition(" ")[2])
        raise LookupError(name)

    async def kill(self) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 10)

    def resident(self) -> float:
        """Megabytes."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats(tmp_path) as server:
        yield server


@contextlib.asynccontextmanager
async def mesh_and_edge(
    directory: Path, nats: NatsServer, **settings: str
) -> AsyncGenerator[tuple[World, EdgeProcess]]:
    logs = JetStreamLogs.connect(nats.access, STREAMS)
    async with world(directory, logs) as mesh:
        edge = EdgeProcess(mesh, nats, **settings)
        try:
            yield mesh, edge
        finally:
            if edge.process is not None:
                await edge.kill()
    await logs.close()


def client(mesh: World, edge: EdgeProcess) -> Client:
    return Client(mesh.ca.root_pem, edge.port, mesh.issuer.token("shop", "default", "web-1", "u1"))


async def test_it_serves_is_killed_and_serves_again(tmp_path: Path, nats: NatsServer) -> None:
    async with mesh_and_edge(tmp_path, nats) as (mesh, edge):
        version = await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        await edge.start()
        async with client(mesh, edge) as proxy:
            for type_url in (CDS, LDS):
                await proxy.send(type_url)
                await proxy.ack(await proxy.receive())
            await mesh.acked(POD, version)
            held = proxy.held
            await eventually((tmp_path / "state" / "last-good").exists, within=10, what="the state is saved")
            await edge.kill()
        # With NATS down too, it comes back by what it has on disk.
        nats.kill()
        await edge.start()
        async with client(mesh, edge) as proxy:
            await proxy.send(CDS)
            assert [resource.name for resource in (await proxy.receive()).resources] == ["c"]
        nats.start()
        version = await mesh.compiler.publish({"web": {**CLASS, LDS: {"l": b"changed"}}}, {POD: ("u1", "web")})
        async with client(mesh, edge) as proxy:
            for type_url in (CDS, LDS):
                await proxy.send(type_url, initial_resource_versions=held[type_url])
            response = await proxy.receive(within=20)
            assert [resource.resource.value for resource in response.resources] == [b"changed"]
            await proxy.ack(response)
            status = await mesh.acked(POD, version)
            assert status.edge == "edge-0"
            assert await edge.metric("meshlog_edge_snapshot_version") == version
        assert await edge.stop() == 0
        log = edge.log.read_text()
        assert "Traceback" not in log
        assert "BEGIN PRIVATE" not in log


async def test_two_workers_share_a_port_and_one_that_dies_comes_back(tmp_path: Path, nats: NatsServer) -> None:
    async with mesh_and_edge(tmp_path, nats, workers="2") as (mesh, edge):
        await mesh.compiler.publish({"web": CLASS}, {POD: ("u1", "web")})
        await edge.start()
        async with contextlib.AsyncExitStack() as proxies:
            for _ in range(12):
                proxy = await proxies.enter_async_context(client(mesh, edge))
                await proxy.send(CDS)
                await proxy.ack(await proxy.receive())
            await eventually(lambda: streams(edge, 12), within=10, what="the parent counts all streams")
            assert edge.process is not None
            workers = children(edge.process.pid)
            assert len(workers) == 2
            os.kill(workers[0], signal.SIGKILL)

            async def back() -> bool:
                assert edge.process is not None
                pids = children(edge.process.pid)
                return len(pids) == 2 and workers[0] not in pids and await edge.is_ready()

            await eventually(back, within=20, what="the worker is back")
        assert await edge.stop() == 0
        await eventually(lambda: not any(alive(pid) for pid in workers), within=5, what="no worker is left")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def streams(edge: EdgeProcess, count: int) -> bool:
    return await edge.metric("meshlog_edge_streams") == count


async def test_bad_settings_are_one_sentence(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.xds_edge", "--prot", "1", stderr=asyncio.subprocess.PIPE, cwd=Path.cwd()
    )
    _, error = await process.communicate()
    assert process.returncode == 2
    assert error.decode().count("\n") == 1
    assert "--port" in error.decode()
