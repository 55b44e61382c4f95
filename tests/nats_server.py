"""A real nats-server on a free port, that tests start, kill and start again on the same data."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

from deploy.nats import ROUTE_PORT, NatsConfig, NatsUser, render
from shared.eventlog.jetstream.nats_connection import LogAccess
from shared.records.subjects import Streams
from shared.streams.jetstream import JetStreamLogs
from tests.ports import free_port


class NatsServer:
    """One server, its data directory and its process."""

    def __init__(self, directory: Path, config: NatsConfig | None = None) -> None:
        self.config = config or NatsConfig(port=free_port(), store=str(directory / "data"))
        self.url = f"nats://{self.config.host}:{self.config.port}"
        self.access = LogAccess(servers=(self.url,))
        self._file = directory / "nats.conf"
        self._log = directory / "nats.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        self._file.write_text(render(self.config), encoding="utf-8")
        binary = shutil.which("nats-server", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
        assert binary is not None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([binary, "-c", str(self._file)], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while not self._accepts():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, "nats-server does not listen within 10 s"
            time.sleep(0.02)

    def kill(self) -> None:
        """`kill -9`."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """`kill -STOP`: its connections stay, and nobody is at home."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """`kill -CONT`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it gracefully."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(10)
            self._process = None

    def _accepts(self) -> bool:
        try:
            socket.create_connection((self.config.host, self.config.port), timeout=1).close()
        except OSError:
            return False
        return True


@contextlib.contextmanager
def running_nats(directory: Path) -> Generator[NatsServer, None, None]:
    """A server for as long as this lasts."""
    server = NatsServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def running_cluster(directory: Path, users: tuple[NatsUser, ...] = ()) -> Generator[list[NatsServer], None, None]:
    """Three servers of one cluster, each with a loopback address of its own: their port for each other is fixed."""
    hosts = [f"127.{random.randint(1, 250)}.{random.randint(0, 250)}.{last}" for last in (1, 2, 3)]  # noqa: S311
    servers: list[NatsServer] = []
    for number, host in enumerate(hosts):
        place = directory / f"nats-{number}"
        place.mkdir()
        config = NatsConfig(
            host=host,
            port=free_port(),
            store=str(place / "data"),
            name=f"nats-{number}",
            monitoring=free_port(),
            users=users,
            routes=tuple(f"nats-route://{each}:{ROUTE_PORT}" for each in hosts),
        )
        servers.append(NatsServer(place, config))
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.kill()


@contextlib.asynccontextmanager
async def connected(server: NatsServer, prefix: str = "mesh") -> AsyncGenerator[JetStreamLogs, None]:
    """A connection to it for as long as this lasts."""
    logs = JetStreamLogs.connect(server.access, Streams(prefix=prefix))
    try:
        yield logs
    finally:
        await logs.close()
