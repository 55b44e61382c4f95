"""A mesh around one edge, in one process: a log in memory, a token issuer, a CA, and a compiler run by the test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from services.xds_edge.app import App
from services.xds_edge.settings import EdgeSettings
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import Draft, Logs
from shared.projected_objects import Meta, Pod, PodStatus
from shared.records import events
from shared.records.proxy_status import ProxyStatus, decode_status
from shared.streams.memory import MemoryLogs
from tests.integration.xds_edge.client import Client
from tests.integration.xds_edge.names import CLUSTER, STREAMS
from tests.integration.xds_edge.publishing import TestCompiler
from tests.integration.xds_edge.signing import Issuer, TestCa
from tests.waiting import eventually


class World:
    """Everything around edges."""

    def __init__(self, directory: Path, logs: Logs | None = None, *, lifetime: float = 3600.0) -> None:
        self.directory = directory
        self.logs = logs or MemoryLogs()
        self.issuer = Issuer()
        self.ca = TestCa(lifetime)
        self.compiler = TestCompiler(self.logs)
        self._tasks: set[asyncio.Task[None]] = set()
        self._edges: list[App] = []
        self.token_file = directory / "edge-token"
        self.token_file.write_text(self.issuer.token("meshlog-system", "meshlog-xds-edge", "edge-0", "edge-uid"))

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        return task

    async def start(self) -> None:
        """A CA that signs, and an issuer that the log knows."""
        self.spawn(self.ca.run(self.logs), "ca")
        await self.tell("TokenIssuer", "", "cluster", "", self.issuer.published)

    async def tell(self, kind: str, namespace: str, name: str, uid: str, what: msgspec.Struct | None) -> None:
        """Write what the ingestor would about an object; none: it was deleted."""
        event = events.Event(
            schema=1,
            cluster=CLUSTER,
            kind=kind,
            namespace=namespace,
            name=name,
            uid=uid,
            resource_version="1",
            operation=events.APPLIED if what is not None else events.DELETED,
            object=events.encode_object(what) if what is not None else None,
        )
        log = await self.logs.open(STREAMS.events)
        tip = await log.tip(STREAMS.cluster_scope(CLUSTER))
        await log.append(
            [Draft(subject=event.subject(STREAMS), payload=events.encode(event))],
            scope=STREAMS.cluster_scope(CLUSTER),
            after=tip,
            epoch="" if tip.epoch else "events-1",
        )

    async def pod(self, namespace: str, name: str, uid: str, *, phase: str = "Running") -> str:
        """A pod without a proxy, and its token."""
        pod = Pod(metadata=Meta(name=name, namespace=namespace, uid=uid), status=PodStatus(phase=phase))
        await self.tell("Pod", namespace, name, uid, pod)
        return self.issuer.token(namespace, "default", name, uid)

    async def edge(self, name: str = "edge-0", *, logs: Logs | None = None, **settings: object) -> App:
        """An edge that serves; with `port=0` by default on a free port."""
        given = {
            "host": "127.0.0.1",
            "port": 0,
            "state_dir": str(self.directory / name),
            "key_dir": str(self.directory / f"{name}-key"),
            "token_file": str(self.token_file),
            "drain": 0.1,
            **settings,
        }
        edge = App(msgspec.convert(given, EdgeSettings), instance=name)
        edge.load()
        own: set[asyncio.Task[None]] = set()

        def spawn(work: Coroutine[Any, Any, None], task_name: str) -> asyncio.Task[None]:
            task = self.spawn(work, f"{name}: {task_name}")
            own.add(task)
            return task

        edge.__dict__["tasks"] = own
        spawn(edge.attach(logs or self.logs, spawn), "attach")
        spawn(edge.confirm_or_trust_disk(), "confirm")
        await asyncio.wait_for(edge.listen(), 10)
        self._edges.append(edge)
        return edge

    async def stop_edge(self, edge: App) -> None:
        await edge.stop()
        self._edges.remove(edge)
        await _cancel(edge.__dict__["tasks"])

    async def kill_edge(self, edge: App) -> None:
        """Like kill -9: no client is notified."""
        self._edges.remove(edge)
        await _cancel(edge.__dict__["tasks"])
        await edge.server.abandon()

    async def close(self) -> None:
        for edge in list(self._edges):
            await self.stop_edge(edge)
        await _cancel(self._tasks)

    def memory(self, stream: str) -> MemoryLog:
        """A stream of the log in memory, to be damaged."""
        assert isinstance(self.logs, MemoryLogs)
        return self.logs.stream(stream)

    async def status(self, pod: str) -> ProxyStatus:
        """The newest report about a proxy; fails with `LookupError` before the first."""
        namespace, name = pod.split("/")
        log = await self.logs.open(STREAMS.status)
        record = await log.last(STREAMS.status_subject(CLUSTER, namespace, name))
        if record is None:
            raise LookupError(pod)
        return decode_status(record.payload)

    async def acked(self, pod: str, version: int, *, within: float = 15.0) -> ProxyStatus:
        """Wait until a proxy has acknowledged a version."""

        async def probe() -> ProxyStatus | None:
            status = await self.status(pod)
            return status if status.connected and status.acked >= version else None

        found = await eventually(probe, within=within, what=f"{pod} acknowledges {version}")
        assert found is not None
        return found

    def client(self, edge: App, pod: str, uid: str, *, token: str = "", account: str = "default") -> Client:
        namespace, name = pod.split("/")
        return Client(self.ca.root_pem, edge.server.port, token or self.issuer.token(namespace, account, name, uid))


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def world(directory: Path, logs: Logs | None = None, *, lifetime: float = 3600.0) -> AsyncGenerator[World]:
    """A started world."""
    made = World(directory, logs, lifetime=lifetime)
    await made.start()
    try:
        yield made
    finally:
        await made.close()
