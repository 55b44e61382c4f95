"""What stands at the door while a TLS handshake is under way: a connection is made of a client that has ended it.

The state of an HTTP/2 connection takes a quarter of a millisecond and 20 kB to make. Most of those who begin a
handshake and never end it are strangers, so until then there is this alone. HTTP/2 it must be (RFC 9113, section 3.2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast


class HandshakeProtocol(asyncio.Protocol):
    """One client in its handshake."""

    __slots__ = ("_make", "_refuse")

    def __init__(self, make: Callable[[], asyncio.BaseProtocol], refuse: Callable[[], None]) -> None:
        """`make` the connection of a client that speaks HTTP/2; `refuse`: it does not, and is gone."""
        self._make = make
        self._refuse = refuse

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is agreed."""
        line = cast("asyncio.Transport", transport)
        if line.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            line.abort()
            self._refuse()
            return
        connection = self._make()
        line.set_protocol(connection)
        connection.connection_made(line)
