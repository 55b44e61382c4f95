"""The NATS client library, imported without its WebSocket transport.

nats-py imports all of aiohttp for WebSockets, which no part of Meshlog speaks to NATS: 10 MB resident in each process
that needs aiohttp for nothing else (measured: 43 MB with it, 33 MB without). Its import is optional there, so it
is hidden while nats-py is loaded. Everything of ours imports nats-py from here.
"""

from __future__ import annotations

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

__all__ = ["Client", "ConnectionClosedError", "Msg", "NatsError"]
