"""The short form of `make attack`: the rows that are quick, on real processes under traffic.

The whole is `make attack`; docs/security.md has its table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.embedded import lifecycle
from tests.attacks.__main__ import SUITE
from tests.attacks.rows import attacks

pytestmark = [pytest.mark.alone, pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats, pytest.mark.timeout(180)]


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A mesh of this test's own."""
    monkeypatch.setenv(lifecycle.STATE_VARIABLE, str(tmp_path))
    started = lifecycle.start(api_port=0, nats_port=0, detached=False, progress=lambda _: None)
    try:
        yield
    finally:
        started.stop()


def test_members_notice_nothing_of_the_quick_attacks(mesh: None) -> None:
    outcomes = asyncio.run(SUITE.run([attack for attack in attacks() if attack.short]))
    assert {outcome.name: outcome.wrong for outcome in outcomes} == {outcome.name: [] for outcome in outcomes}
    assert all(outcome.requests > 10 and outcome.streams for outcome in outcomes)
