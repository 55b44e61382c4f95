"""Ports of the mesh on the host: connections to a listener of the host go on to a Service inside.

The listener was made on the host and came by inheritance, so accepting on it is all it takes to be reachable there;
the other leg is an ordinary connection in the devcluster's own network.
"""

from __future__ import annotations

import asyncio
import logging
import socket

from deploy.devcluster.cluster import Cluster

_log = logging.getLogger(__name__)
_CHUNK = 65536


class Publisher:
    """One published Service."""

    def __init__(self, listener: socket.socket, cluster: Cluster, *, namespace: str, service: str, port: int) -> None:
        self._listener = listener
        self._cluster = cluster
        self._namespace = namespace
        self._service = service
        self._port = port

    async def serve(self) -> None:
        """Accept for ever; cancel it to stop."""
        server = await asyncio.start_server(self._carry, sock=self._listener)
        async with server:
            await server.serve_forever()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            found = await self._cluster.get("services", self._namespace, self._service)
            if found is None:
                return
            inner_reader, inner_writer = await asyncio.open_connection(found["spec"]["clusterIP"], self._port)
            await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
        except OSError as error:
            # Whoever called sees its connection closed, which says the same.
            _log.debug("%s/%s: %s", self._namespace, self._service, error)
        finally:
            writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while chunk := await source.read(_CHUNK):
            sink.write(chunk)
            await sink.drain()
    finally:
        sink.close()
