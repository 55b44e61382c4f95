"""Stock gRPC clients against the edge's own server; of Go, Java and Node where `make edge-clients` was run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.clients import matrix

UNSETTLED = ["16 calls, 200 kB each", "32 calls, 200 kB each", "8 calls, 1 MB each", "100 kB of metadata"]
"""Cases that the own server fails: calls with long first requests wait for each other's windows."""


@pytest.mark.parametrize("client", matrix.commands())
async def test_every_case_of_a_stock_client_passes(client: str, tmp_path: Path) -> None:
    command = matrix.commands()[client]
    if command is None:
        pytest.skip(f"no {client}: make edge-clients")
    async with matrix.clients_world(tmp_path) as (_, plan):
        rows = await matrix.run(client, command, msgspec.structs.replace(plan, omit=UNSETTLED), tmp_path)
    assert [f"{row.case}: {row.detail}" for row in rows if not row.passed] == []
