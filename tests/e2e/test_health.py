"""The short form of `make health`, on the mesh that the rows of Open Service Mesh's list use."""

from __future__ import annotations

import pytest

from tests.e2e.command import Command
from tests.health.__main__ import SUITE
from tests.health.matrix import tell
from tests.health.scene import opened

pytestmark = [pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats, pytest.mark.timeout(180)]


async def test_what_is_wrong_is_named_by_status_verify_readyz_and_metrics(
    rows_mesh: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log takes no writes, so that no replica leads; the other rows are `make health`."""
    monkeypatch.setenv("MESHLOG_STATE", str(rows_mesh.state))
    async with opened() as scene:
        (row,) = [one for one in SUITE.rows() if one.name == "unwritable"]
        assert (await tell(scene, row)).missing == []
