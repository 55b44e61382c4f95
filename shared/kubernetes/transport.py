"""The transport of `kubernetes.aio`, on sockets that detect a peer that is gone.

A watch may be silent for a minute, so silence does not show a failure. A server that vanished without closing (a host
that lost its power, packets that are dropped) leaves the watch open for ever on this side; and if only one direction is
broken, the server's TCP resends minutes after the network is repaired. The kernel can detect that: it probes an idle
connection, and ends one whose data is not acknowledged (tcp(7),
`TCP_USER_TIMEOUT`; RFC 5482).

The proxy settings of the environment are read once, when a client is made. aiohttp would read them at every request,
and ~/.netrc too (whose credentials are not this server's), each in a thread of its own.
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
"""Seconds of silence after which the kernel probes the connection."""
EVERY = 2
"""Seconds between probes."""
GIVEN_UP = 8
"""Seconds without an answer, to a probe or to data, after which the connection is closed: at the third probe."""


def watched_socket(address: tuple[Any, ...]) -> socket.socket:
    """Return a TCP socket for an entry of `getaddrinfo` that is closed when its peer no longer answers."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, EVERY)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GIVEN_UP * 1000)
    return made


def environments_proxy(url: str) -> str | None:
    """The proxy by which the environment (`HTTPS_PROXY`, `NO_PROXY`, …) has this address reached; None: directly."""
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
