"""The webhook behind its real server, for tests and the benchmark."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from services.injector.http.client_access import ClientAccess
from services.injector.http.limits import HttpLimits
from services.injector.http.server import HttpServer
from services.injector.http.webhook import Webhook


@asynccontextmanager
async def served(
    webhook: Webhook,
    context: ssl.SSLContext,
    *,
    limits: HttpLimits = HttpLimits(),  # noqa: B008 (frozen)
    access: ClientAccess = ClientAccess(),  # noqa: B008 (frozen)
    refused: Callable[[str], None] = lambda _word: None,
) -> AsyncGenerator[tuple[HttpServer, int]]:
    """The server and its port on loopback."""
    server = HttpServer(webhook.handlers, context=lambda: context, limits=limits, access=access, refused=refused)
    port = await server.start("127.0.0.1", 0)
    try:
        yield server, port
    finally:
        await server.stop()
        webhook.close()
