"""The short form of `make faults`: the faults that happen most, each on real processes under traffic.

The whole is `make faults`; docs/reliability.md has its table.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.embedded import lifecycle
from tests.faults.__main__ import SUITE
from tests.faults.strangers import are_refused, passwords, shown

pytestmark = [pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats, pytest.mark.timeout(180)]

SHORT = ("kill-compiler-leader", "kill-edges")
EVERYTHING = ("kill-everything",)


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A highly available mesh of this test's own."""
    monkeypatch.setenv(lifecycle.STATE_VARIABLE, str(tmp_path))
    started = lifecycle.start(api_port=0, nats_port=0, detached=False, progress=lambda _: None, ha=True)
    try:
        yield
    finally:
        started.stop()


def replays(file: Path) -> None:
    """The log that was recorded under faults is compiled again, with another hash seed: every hash is the same."""

    def command(*words: str) -> str:
        seed = {**os.environ, "PYTHONHASHSEED": "4711"}
        done = subprocess.run(
            [sys.executable, "-m", "cli", *words], env=seed, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command("export", str(file))
    assert "versions are what was published" in command("replay", str(file), "--verify")


def holds(names: tuple[str, ...], file: Path) -> None:
    outcomes = asyncio.run(SUITE.run(SUITE.chosen(names)))
    assert {outcome.name: outcome.wrong for outcome in outcomes} == {name: [] for name in names}
    assert all(outcome.requests > 10 for outcome in outcomes)
    replays(file)


def test_no_request_fails_when_the_compiler_or_all_edges_are_killed_and_strangers_write_nothing(
    mesh: None, tmp_path: Path
) -> None:
    holds(SHORT, tmp_path / "recorded.meshlog")
    # On the same mesh, for the ten seconds that another would take.
    asyncio.run(are_refused())
    assert shown() == []
    planted = tmp_path / "logs" / "planted.log"
    planted.write_text(f"password: {next(iter(passwords().values()))}\n", encoding="utf-8")
    assert shown() == ["logs/planted.log"]


@pytest.mark.long
def test_no_request_fails_and_no_event_is_lost_when_everything_is_killed(mesh: None, tmp_path: Path) -> None:
    holds(EVERYTHING, tmp_path / "recorded.meshlog")
