"""An API server that answers byte for byte what a test says, and a kubeconfig that leads there."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import yaml
from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """An HTTP server whose answers are given one by one, by path; the last one is repeated."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, str, str]] = []
        """Path, query, authorization."""
        self.url = ""

    def says(self, path: str, *answers: Answer) -> None:
        """The next answers on a path."""
        self.answers[path] = list(answers)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer."""
        self.requests.append((request.path, request.query_string, request.headers.get("Authorization", "")))
        answers = self.answers.get(request.path)
        if not answers:
            return web.Response(status=404, text="{}")
        return await (answers.pop(0) if len(answers) > 1 else answers[0])(request)


def body(value: object, status: int = 200, **headers: str) -> Answer:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=json.dumps(value).encode(), headers=headers)

    return answer


def chunks(*pieces: bytes) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0)
        return response

    return answer


@contextlib.asynccontextmanager
async def serving() -> AsyncGenerator[Api]:
    """A server that answers 404 until it is told otherwise."""
    made = Api()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()


def write_kubeconfig(path: Path, url: str, *, token: str) -> str:
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    return str(path)
