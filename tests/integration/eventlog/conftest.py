"""A real nats-server for each test that kills it, and connections to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shared.streams.jetstream import JetStreamLogs
from tests.nats_server import NatsServer, connected, running_nats


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server of this test alone."""
    with running_nats(tmp_path) as running:
        yield running


@pytest.fixture
async def logs(server: NatsServer) -> AsyncIterator[JetStreamLogs]:
    """A connection to it."""
    async with connected(server) as opened:
        yield opened
