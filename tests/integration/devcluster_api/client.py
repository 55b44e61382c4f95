"""A plain HTTPS client of the devcluster's API: what goes over the wire is what the tests say."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from deploy.devcluster.apiserver import ApiServer

PODS = "/api/v1/namespaces/default/pods"
MAPS = "/api/v1/namespaces/default/configmaps"


class Client:
    """One API server and a session with it."""

    def __init__(self, api: ApiServer, session: aiohttp.ClientSession) -> None:
        self.api = api
        self.session = session
        host, port = api.bound[0]
        self.url = f"https://{host}:{port}"

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        media: str = "application/json",
        accept: str = "application/json",
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        token = self.api.accounts.admin_token if token is None else token
        sent = {"Accept": accept, "Content-Type": media, **(headers or {})}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        raw = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        data = None if raw is None else io.BytesIO(raw)
        async with self.session.request(method, self.url + path, data=data, headers=sent) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if answer.content_type == "application/json" else text

    @asynccontextmanager
    async def watch(self, path: str, *, accept: str = "application/json") -> AsyncGenerator[Watch]:
        """A watch that is open."""
        headers = {"Authorization": f"Bearer {self.api.accounts.admin_token}", "Accept": accept}
        joint = "&" if "?" in path else "?"
        async with self.session.get(f"{self.url}{path}{joint}watch=1", headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            yield Watch(answer)


class Watch:
    """Events of a watch, one after another."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def next(self) -> tuple[str, Any]:
        """Type and object of the next event."""
        line = await asyncio.wait_for(self._answer.content.readline(), 10)
        assert line, "the watch has ended"
        event = json.loads(line)
        return event["type"], event["object"]

    async def names(self, count: int) -> list[tuple[str, str]]:
        """Type and name of the next events, bookmarks left out."""
        found: list[tuple[str, str]] = []
        while len(found) < count:
            kind, obj = await self.next()
            if kind != "BOOKMARK":
                found.append((kind, obj["metadata"]["name"]))
        return found

    async def ended(self) -> bool:
        """Whether nothing more comes."""
        return await asyncio.wait_for(self._answer.content.readline(), 10) == b""


@asynccontextmanager
async def serving(**options: Any) -> AsyncGenerator[Client]:
    """An API server on a free port, and a client."""
    api = ApiServer(addresses=[("127.0.0.1", 0)], first_revision=1, **options)
    await api.start()
    context = ssl.create_default_context(cadata=api.ca_pem)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=0)) as session:
            yield Client(api, session)
    finally:
        await api.stop()
