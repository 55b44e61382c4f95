"""A Kubernetes API in memory with just the behaviour that the CA relies on; also served over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import msgspec
from aiohttp import web

from services.ca.core.kube_api import KubeAnswer, KubeError


class FakeKubernetes:
    """Objects by path. POST refuses to replace, an apply PATCH merges, a JSON patch honours `test`."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.requests: list[tuple[str, str]] = []
        self.refusing: set[str] = set()
        """Paths that answer 403."""
        self.down = False
        self.version = 1
        self.changed = asyncio.Event()

    def put(self, path: str, obj: Any) -> None:
        """Change an object behind the CA's back."""
        self.version += 1
        if isinstance(obj, dict) and "metadata" in obj:
            obj["metadata"]["resourceVersion"] = str(self.version)
        self.objects[path] = obj
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,  # noqa: ARG002 (the protocol's)
        body: Any = None,
        content_type: str = "application/json",
    ) -> KubeAnswer:
        self.requests.append((method, path))
        if self.down:
            raise KubeError("kube/unreachable", "no answer", about=path)
        if path in self.refusing:
            return KubeAnswer(status=403, body=b"{}")
        match method, content_type:
            case "GET", _:
                return self._get(path)
            case "POST", _:
                return self._create(f"{path}/{body['metadata']['name']}", body)
            case "DELETE", _:
                return KubeAnswer(status=200 if self.objects.pop(path, None) is not None else 404, body=b"{}")
            case "PUT", _:
                return self._replace(path, body)
            case "PATCH", "application/apply-patch+yaml":
                self.put(path, body)
                return KubeAnswer(status=200, body=b"{}")
            case "PATCH", "application/merge-patch+json":
                self.put(path, body)
                return KubeAnswer(status=200, body=b"{}")
            case "PATCH", "application/json-patch+json":
                return self._patch(path, body)
            case _:
                raise AssertionError(f"{method} {path} {content_type}")

    async def watch(self, path: str, *, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        if self.down:
            raise KubeError("kube/unreachable", "no answer", about=path)
        while str(self.version) == query["resourceVersion"]:
            await self.changed.wait()
        yield b'{"type":"MODIFIED"}\n'

    def _get(self, path: str) -> KubeAnswer:
        if path.endswith("webhookconfigurations"):
            items = [obj for key, obj in self.objects.items() if key.startswith(path + "/")]
            listed = {"metadata": {"resourceVersion": str(self.version)}, "items": items}
            return KubeAnswer(status=200, body=msgspec.json.encode(listed))
        if path not in self.objects:
            return KubeAnswer(status=404, body=b"{}")
        return KubeAnswer(status=200, body=msgspec.json.encode(self.objects[path]))

    def _create(self, path: str, body: Any) -> KubeAnswer:
        if path in self.objects:
            return KubeAnswer(status=409, body=b"{}")
        self.put(path, body)
        return KubeAnswer(status=201, body=b"{}")

    def _replace(self, path: str, body: Any) -> KubeAnswer:
        if path not in self.objects:
            return KubeAnswer(status=404, body=b"{}")
        if body["metadata"].get("resourceVersion") != self.objects[path]["metadata"].get("resourceVersion"):
            return KubeAnswer(status=409, body=b"{}")
        self.put(path, body)
        return KubeAnswer(status=200, body=b"{}")

    def _patch(self, path: str, operations: list[dict[str, Any]]) -> KubeAnswer:
        for operation in operations:
            *parents, last = operation["path"].lstrip("/").split("/")
            place = self.objects[path]
            for part in parents:
                place = place[int(part)] if isinstance(place, list) else place[part]
            if operation["op"] == "test" and place[last] != operation["value"]:
                return KubeAnswer(status=422, body=b"{}")
            if operation["op"] == "add":
                place[last] = operation["value"]
        self.put(path, self.objects[path])
        return KubeAnswer(status=200, body=b"{}")


@contextlib.asynccontextmanager
async def served(fake: FakeKubernetes, token: str) -> AsyncGenerator[str, None]:
    """The same over HTTP, for clients that present the token; yields the address."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {token}":
            return web.Response(status=401)
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            async for chunk in fake.watch(request.path, query=request.query):
                await response.write(chunk)
            return response
        raw = await request.read()
        answer = await fake.request(
            request.method,
            request.path,
            query=request.query,
            body=msgspec.json.decode(raw) if raw else None,
            content_type=request.headers.get("Content-Type", ""),
        )
        return web.Response(status=answer.status, body=answer.body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
