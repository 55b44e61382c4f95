"""The demo is the test: every check it makes is made on real traffic through real Envoys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.command import Command, mentioning

pytestmark = [pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats]

PROMISED = (
    "without policy the buyer is denied at once",
    "without policy the thief is denied at once",
    "the buyer buys",
    "the thief gets 403 where it may not call",
    "split 100/0",
    "split 50/50",
    "split 0/100",
    "bookbuyer presents a SPIFFE certificate",
    "bookstore-v1 presents a SPIFFE certificate",
    "plaintext from the client without a sidecar is reset",
    "without its policy the TCP route carries nothing",
    "a TCP connection that was open is cut",
    "requests that failed while the control plane died",
    "certificates of both ends were renewed under that load",
)


@pytest.mark.timeout(180)
def test_the_demo_holds_says_so_in_json_and_leaves_nothing(tmp_path: Path) -> None:
    command = Command(tmp_path / "state")
    command.environment["TMPDIR"] = str(tmp_path)
    done = command("demo", "--json", within=170)
    report = json.loads(done.stdout)
    broken = [check for check in report["checks"] if not check["held"]]
    assert broken == []
    assert {check["name"] for check in report["checks"]} >= set(PROMISED)
    assert (done.returncode, report["held"]) == (0, True)
    assert report["seconds"] <= 90
    assert mentioning(str(tmp_path)) == []
