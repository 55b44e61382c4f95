"""The NATS client library, imported without its WebSocket transport.

nats-py imports all of aiohttp for WebSockets, which no part of Meshlog speaks to NATS: 10 MB resident in each process
that needs aiohttp for nothing else (measured: 43 MB with it, 33 MB without). Its import is optional there, so it
is hidden while nats-py is loaded. Everything of ours imports nats-py from here.

It upgrades its plain connection to TLS below the stream's feet, so that the event loop warns at the end of each: that
one session, which says nothing to anybody, is left out.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, cast

_hidden = "aiohttp" not in sys.modules
if _hidden:
    cast("dict[str, Any]", sys.modules)["aiohttp"] = None
try:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.errors import ConnectionClosedError
    from nats.errors import Error as NatsError
finally:
    if _hidden:
        del sys.modules["aiohttp"]


def _tells(record: logging.LogRecord) -> bool:
    return "eof_received() has no effect when using ssl" not in str(record.msg)


logging.getLogger("asyncio").addFilter(_tells)

__all__ = ["Client", "ConnectionClosedError", "Msg", "NatsError"]
