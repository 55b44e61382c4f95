"""A world for each test; with `EDGE_SERVER=grpcio` in the environment its edges are served by gRPC's server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.grpcio_edge.running import grpcio_edges
from tests.integration.xds_edge.world import World, world


@pytest.fixture(autouse=True, scope="session")
def served_by() -> Iterator[None]:
    """The server that is asked for."""
    if os.environ.get("EDGE_SERVER") != "grpcio":
        yield
        return
    with grpcio_edges():
        yield


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made
