"""A scripted API server on the wire: the truth of a cluster (`ScriptedServer`), and every way of HTTP to fail."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from aiohttp import web

from services.ingestor.core.kinds import WatchedKind
from services.ingestor.kubernetes.client import KubernetesSource
from services.ingestor.kubernetes.object_source import KindAbsentError, SourceError
from tests.scripted_api import write_kubeconfig
from tests.unit.ingestor.objects import encoded
from tests.unit.ingestor.rig import POD, SPLIT
from tests.unit.ingestor.scripted import ScriptedServer

_GROUP = f"/apis/{SPLIT.group}"


class FaultyApi:
    """Serves pods, and TrafficSplits in one version at a time."""

    def __init__(self, directory: Path, *, streams: bool) -> None:
        """`streams`: it has streaming lists."""
        self.server = ScriptedServer(page=500, streams=streams)
        self.streams = streams
        self.kubeconfig = directory / "kubeconfig"
        self.token = "first"
        self.answers: list[web.Response] = []
        """Given to the next requests for pods instead of what is the case."""
        self.stalled = False
        """Watches are accepted, and then send nothing any more."""
        self.drop_every = 0
        """Leave out each n-th line of a watch; 0: none."""
        self.piece = 0
        """Bytes that are sent at once; 0: a line."""
        self.split_version = "v1alpha2"
        self.requests: list[tuple[float, int, str]] = []
        """When (steady clock), with which status was answered, and what was asked for."""
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        """Listen, on the same port each time."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]
        self.write_kubeconfig()

    async def stop(self) -> None:
        """Vanish, with all connections."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def write_kubeconfig(self) -> None:
        """With the token that is good now."""
        write_kubeconfig(self.kubeconfig, f"http://127.0.0.1:{self._port}", token=self.token)

    @contextlib.asynccontextmanager
    async def source(self) -> AsyncGenerator[KubernetesSource]:
        """A client of it."""
        made = await KubernetesSource.connect(str(self.kubeconfig))
        try:
            yield made
        finally:
            await made.close()

    def statuses(self) -> list[int]:
        """What was answered to requests for pods."""
        return [status for _, status, what in self.requests if what.startswith("/api/v1/pods")]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        response = await self._answer(request)
        self.requests.append((time.monotonic(), response.status, request.path_qs))
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization", "").lower() != f"bearer {self.token}":
            return _status(401)
        if request.path == "/api/v1/pods":
            return self.answers.pop(0) if self.answers else await self._collection(request, POD)
        if SPLIT.name not in self.server.absent:
            if request.path == _GROUP:
                version = {"version": self.split_version}
                return web.json_response({"versions": [version], "preferredVersion": version})
            if request.path == f"{_GROUP}/{self.split_version}":
                return web.json_response({"resources": [{"name": SPLIT.plural}]})
            if request.path == f"{_GROUP}/{self.split_version}/{SPLIT.plural}":
                return await self._collection(request, SPLIT)
        return _status(404)

    async def _collection(self, request: web.Request, kind: WatchedKind) -> web.StreamResponse:
        try:
            if request.query.get("watch") != "true":
                page = await self.server.page(kind, request.query.get("continue", ""))
                return web.Response(body=page.body, content_type="application/json")
            return await self._watch(request, kind)
        except SourceError as error:
            return _status(error.failure.status or 500)
        except KindAbsentError:
            return _status(404)

    async def _watch(self, request: web.Request, kind: WatchedKind) -> web.StreamResponse:
        async with contextlib.AsyncExitStack() as stack:
            if request.query.get("sendInitialEvents") == "true":
                _, lines = await stack.enter_async_context(self.server.stream(kind))
            else:
                lines = await stack.enter_async_context(self.server.watch(kind, request.query["resourceVersion"]))
            self.requests.append((time.monotonic(), 200, request.path_qs))
            response = web.StreamResponse()
            await response.prepare(request)
            if self.stalled:
                await asyncio.Event().wait()
            count, listing = 0, "sendInitialEvents" in request.query
            async for line in lines:
                count += not listing
                listing = listing and b"initial-events-end" not in line
                if count and self.drop_every and count % self.drop_every == 0:
                    continue
                await self._send(response, line + b"\n")
            return response

    async def _send(self, response: web.StreamResponse, line: bytes) -> None:
        piece = self.piece or len(line)
        for start in range(0, len(line), piece):
            await response.write(line[start : start + piece])


def _status(code: int, **headers: str) -> web.Response:
    return web.Response(status=code, body=encoded({"kind": "Status", "code": code}), headers=headers)


def nothing(version: str, *, streams: bool) -> web.Response:
    """A complete list without any object."""
    if not streams:
        return web.json_response({"metadata": {"resourceVersion": version}, "items": []})
    metadata = {"resourceVersion": version, "annotations": {"k8s.io/initial-events-end": "true"}}
    return web.Response(body=encoded({"type": "BOOKMARK", "object": {"metadata": metadata}}) + b"\n")


def refusal(code: int, *, retry_after: str = "") -> web.Response:
    """An answer that is none."""
    return _status(code, **({"Retry-After": retry_after} if retry_after else {}))
