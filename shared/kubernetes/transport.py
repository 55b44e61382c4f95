"""The way to the Kubernetes API: the transport of `kubernetes.aio`, on sockets that notice that nobody is there.

A watch may be silent for a minute, so silence in it says little. A server that vanished without a word (a host that
lost its power, packets that are dropped on their way) leaves such a watch open for ever on our side; and if only one
direction is broken, what the server said meanwhile is repeated by its TCP minutes after the network has healed. The
kernel can ask instead of us: probes of an idle connection, and an end to what is not acknowledged (tcp(7),
`TCP_USER_TIMEOUT`; RFC 5482).

Which proxy leads there the environment says once, when a client is made. Left to aiohttp it is asked at every request,
as is ~/.netrc (whose credentials are not this server's), each in a thread of its own.
"""

from __future__ import annotations

import socket
import urllib.request
from typing import Any
from urllib.parse import urlsplit

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


def environments_proxy(url: str) -> str | None:
    """The proxy by which the environment (`HTTPS_PROXY`, `NO_PROXY`, …) has this address reached; none: directly."""
    address = urlsplit(url)
    if urllib.request.proxy_bypass(address.hostname or ""):
        return None
    proxy = urllib.request.getproxies().get(address.scheme)
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


class _Transport(RESTClientObject):
    def __init__(self, configuration: Configuration) -> None:
        super().__init__(configuration)
        self.proxy = configuration.proxy or environments_proxy(configuration.host)

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, socket_factory=watched_socket)

    def _create_pool_manager(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=self._create_connector(), read_bufsize=2**21)


def api_client(configuration: Configuration) -> ApiClient:
    """A client of `kubernetes.aio` whose connections do not outlive the server."""
    client = ApiClient(configuration)
    client.rest_client = _Transport(configuration)
    return client
