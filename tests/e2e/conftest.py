"""Meshes that modules share: one for the rows of Open Service Mesh's acceptance list, a bookstore for each rotation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from tests.e2e import rows
from tests.e2e.bookstore import Scene, bookstore
from tests.e2e.command import Command
from tests.e2e.rows import Rows


@pytest.fixture(scope="session")
def rows_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A mesh with the workloads of `rows`."""
    command = Command(tmp_path_factory.mktemp("rows") / "state")
    started = command("up", "--edges", "1")
    assert started.returncode == 0, started.stderr
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MESHLOG_STATE", str(command.state))
            rows.start_workloads()
        yield command
    finally:
        command("down")


@pytest.fixture
async def app(rows_mesh: Command, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Rows]:
    """A handle on that mesh."""
    monkeypatch.setenv("MESHLOG_STATE", str(rows_mesh.state))
    async with rows.opened() as found:
        yield found


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Scene]:
    """A bookstore on a mesh of the test's own."""
    monkeypatch.setenv("MESHLOG_STATE", str(tmp_path))
    async with bookstore(tmp_path) as made:
        yield made
