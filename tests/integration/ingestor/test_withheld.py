"""Closed forms in a real log."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.records.subjects import Streams
from tests.nats_server import connected, running_nats
from tests.unit.ingestor.test_withheld import closes_and_comes_back

pytestmark = pytest.mark.nats


async def test_each_kind_closes_when_it_is_too_large_and_comes_back_when_it_is_small(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with connected(server) as logs:
            await closes_and_comes_back(await logs.open(Streams().events))
