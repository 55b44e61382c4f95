"""The asyncio protocol during a TLS handshake: the HTTP/2 connection is made after the handshake.

The state of an HTTP/2 connection takes a quarter of a millisecond and 20 kB to make. Most clients that begin a
handshake and never finish it are hostile, so until then there is only this protocol. ALPN must select HTTP/2 (RFC 9113,
section 3.2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast


class HandshakeProtocol(asyncio.Protocol):
    """One client in its handshake."""

    __slots__ = ("_make", "_refuse")

    def __init__(self, make: Callable[[], asyncio.BaseProtocol], refuse: Callable[[], None]) -> None:
        """`make` the connection of a client that selected HTTP/2; `refuse` is called for any other."""
        self._make = make
        self._refuse = refuse

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake has succeeded."""
        tls = cast("asyncio.Transport", transport)
        if tls.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            tls.abort()
            self._refuse()
            return
        connection = self._make()
        tls.set_protocol(connection)
        connection.connection_made(tls)
