"""The way to the Kubernetes API: the transport of `kubernetes.aio`, on sockets that notice that nobody is there.

A watch may be silent for a minute, so silence in it says little. A server that vanished without a word (a host that
lost its power, packets that are dropped on their way) leaves such a watch open for ever on our side; and if only one
direction is broken, what the server said meanwhile is repeated by its TCP minutes after the network has healed. The
kernel can ask instead of us: probes of an idle connection, and an end to what is not acknowledged (tcp(7),
`TCP_USER_TIMEOUT`; RFC 5482).
"""

from __future__ import annotations

import socket
from typing import Any

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

IDLE = 5
"""Seconds of silence after which the other end's kernel is asked whether it is there."""
EVERY = 2
"""Seconds between such questions."""
GIVEN_UP = 8
"""Seconds without an answer, to a question or to data, after which the connection is dead: at the third question."""


def watched_socket(address: tuple[Any, ...]) -> socket.socket:
    """A TCP socket for an entry of `getaddrinfo` that gives up a peer which has fallen silent."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, EVERY)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GIVEN_UP * 1000)
    return made


class _Transport(RESTClientObject):
    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, socket_factory=watched_socket)


def api_client(configuration: Configuration) -> ApiClient:
    """A client of `kubernetes.aio` whose connections do not outlive the server."""
    client = ApiClient(configuration)
    client.rest_client = _Transport(configuration)
    return client
