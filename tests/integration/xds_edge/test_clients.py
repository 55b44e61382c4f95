"""Stock gRPC clients against the edge's own server; of Go, Java and Node where `make edge-clients` was run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients import matrix


@pytest.mark.parametrize("client", matrix.commands())
async def test_every_case_of_a_stock_client_passes(client: str, tmp_path: Path) -> None:
    command = matrix.commands()[client]
    if command is None:
        pytest.skip(f"no {client}: make edge-clients")
    async with matrix.clients_world(tmp_path) as (_, plan):
        rows = await matrix.run(client, command, plan, tmp_path)
    assert [f"{row.case}: {row.detail}" for row in rows if not row.passed] == []
