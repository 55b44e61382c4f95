"""Edges in this process, and commands, that are served by `GrpcioServer`."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from unittest import mock

from services.xds_edge import app
from tests.grpcio_edge.server import GrpcioServer


@contextlib.contextmanager
def grpcio_edges(server: type[GrpcioServer] = GrpcioServer) -> Generator[None]:
    """Every `Edge` that is made within the block has gRPC's server."""
    with mock.patch.object(app, "DiscoveryServer", server):
        yield
