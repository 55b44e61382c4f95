"""One node for all tests that do not hurt it; pods are cheap, nodes take a third of a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.devcluster_node.node import Node


@pytest.fixture(scope="package")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    made = Node.start(tmp_path_factory.mktemp("node"))
    yield made
    made.mesh.stop()
