"""Forwards connections from a socket of the host to a Service, so that commands on the host reach the log.

The socket was created on the host, so it stays in the host's network; the connection to the Service is made in the
devcluster's network. If the Service has no endpoints, the client's connection is closed at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Coroutine
from typing import Any

from deploy.devcluster.object_cache import ObjectCache
from deploy.devcluster.settings import PublishedService

_log = logging.getLogger(__name__)
_CHUNK = 64 * 1024


class PublishedSocket:
    """Forwards connections to one published Service."""

    def __init__(self, listener: socket.socket, cache: ObjectCache, published: PublishedService) -> None:
        self._listener = listener
        self._cache = cache
        self._published = published

    async def serve(self) -> None:
        """Accept and forward connections for ever."""
        server = await asyncio.start_server(self._connected, sock=self._listener)
        async with server:
            await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            try:
                there, back = await asyncio.open_connection(self._address(), self._published.port)
            except OSError as error:
                name = f"{self._published.namespace}/{self._published.service}"
                _log.info("a connection to the Service %s failed: %s", name, error)
                return
            with contextlib.closing(back):
                await _until_either(_pass_on(reader, back), _pass_on(there, writer))

    def _address(self) -> str:
        service = self._cache.get("services", self._published.namespace, self._published.service)
        address = (service or {"spec": {}})["spec"].get("clusterIP") or "None"
        if address == "None":
            raise ConnectionRefusedError("the Service does not exist or has no address")
        return address


async def _until_either(*directions: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(each) for each in directions]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await source.read(_CHUNK):
            sink.write(chunk)
            await sink.drain()
