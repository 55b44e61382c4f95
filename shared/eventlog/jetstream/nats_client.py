"""The NATS client library, imported without its WebSocket transport.

nats-py imports all of aiohttp for WebSockets, which no part of Meshlog uses with NATS: 10 MB resident in each process
that needs aiohttp for nothing else (measured: 43 MB with it, 33 MB without). The import is optional in nats-py, so
aiohttp is hidden while nats-py is loaded. All modules of Meshlog import nats-py from here.

nats-py replaces the transport of an open stream by TLS, so the event loop logs a meaningless warning when each
connection ends. That one message is filtered.
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


def _is_meaningful(record: logging.LogRecord) -> bool:
    return "eof_received() has no effect when using ssl" not in str(record.msg)


logging.getLogger("asyncio").addFilter(_is_meaningful)

__all__ = ["Client", "ConnectionClosedError", "Msg", "NatsError"]
