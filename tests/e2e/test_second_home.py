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


def shown_by_pod_and_serial(mesh: Command) -> str:
    """What `meshlog certificate show` says of an edge's own certificate is one thing, however it is asked for."""
    trail = json.loads(mesh("certificate", "audit", "-o", "json").stdout)
    newest = [row for row in trail if row["what"] == "issued" and "xds-edge" in row["pod"]][-1]
    by_pod = mesh("certificate", "show", newest["pod"])
    by_serial = mesh("certificate", "show", newest["serial"].upper())
    assert (by_pod.returncode, by_pod.stdout) == (0, by_serial.stdout), by_pod.stderr
    assert f"identity: {newest['identity']}" in by_pod.stdout
    assert "meshlog-xds-edge.meshlog-system.svc" in by_pod.stdout
    assert "-----BEGIN CERTIFICATE-----" in by_pod.stdout
    return newest["serial"]


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
        serial = shown_by_pod_and_serial(mesh)
        for which in ("meshlog-system/nobody", serial[:-1]):
            refused = mesh("certificate", "show", which)
            assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1), refused.stderr
            assert "no certificate of this pod or serial" in refused.stderr
    finally:
        mesh("down")
    kept = mesh.state / "kept" / "secrets" / "meshlog-system" / "meshlog-ca.json"
    assert kept.stat().st_mode & 0o777 == 0o600
