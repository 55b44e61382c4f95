"""A mesh that is started again on what it left behind: the log knows its root, so the CA must have its key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.command import Command

pytestmark = [pytest.mark.devcluster, pytest.mark.nats]


def roots(mesh: Command) -> list[dict[str, str]]:
    """The rows of the roots, as `meshlog certificate list` shows them."""
    shown = mesh("certificate", "list", "-o", "json")
    assert shown.returncode == 0, shown.stderr
    rows = json.loads(shown.stdout)
    assert not [row for row in rows if row["what"] == "rotation"], rows
    return [{name: row[name] for name in ("name", "state", "expires")} for row in rows if row["what"] == "root"]


def test_a_mesh_started_again_signs_with_the_root_that_its_log_trusts(tmp_path: Path) -> None:
    """Edges and injector serve only with certificates that lead there, and `up` waits for both."""
    mesh = Command(tmp_path / "state")
    try:
        first = mesh("up", "--edges", "1")
        assert first.returncode == 0, first.stderr
        before = roots(mesh)
        assert mesh("down").returncode == 0
        again = mesh("up", "--edges", "1")
        assert again.returncode == 0, again.stderr
        assert roots(mesh) == before
    finally:
        mesh("down")
    kept = mesh.state / "kept" / "secrets" / "meshlog-system" / "meshlog-ca.json"
    assert kept.stat().st_mode & 0o777 == 0o600
