"""A service of Meshlog as a process of its own, for as long as something is measured."""

from __future__ import annotations

import contextlib
import os
from asyncio import create_subprocess_exec
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple

from shared.service.interpreter import module
from tests.ports import free_port


class Service(NamedTuple):
    """One that runs."""

    pid: int
    port: int
    """Where its health and metrics are, at 127.0.0.1."""


@asynccontextmanager
async def running(name: str, nats_url: str, *arguments: str) -> AsyncGenerator[Service]:
    """Start `services.NAME` for the cluster `bench`, without the variables of a cluster; end it afterwards."""
    port = free_port()
    process = await create_subprocess_exec(
        *module(f"services.{name}"),
        *("--nats-url", nats_url, "--cluster", "bench", "--http-port", str(port), "--log-level", "error", *arguments),
        env={key: value for key, value in os.environ.items() if not key.startswith("KUBERNETES_")},
    )
    try:
        yield Service(process.pid, port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
