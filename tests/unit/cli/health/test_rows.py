"""Each check of the table has a row of `make health`, which provokes it on a real mesh."""

from __future__ import annotations

import pytest

from cli.health.checks import CHECKS
from tests.health.__main__ import SUITE
from tests.health.matrix import Outcome
from tests.health.rows import ROWS
from tests.health.table import markdown, wrong

_BY_NAME = {check.name: check for check in CHECKS}


def test_every_check_is_provoked_on_a_real_mesh() -> None:
    assert {name for row in ROWS for name in row.checks} == _BY_NAME.keys()


def test_every_remark_of_a_check_is_asked_for_somewhere() -> None:
    """A place of `/readyz` of which no row could notice that it says nothing would be a promise without a test."""
    unasked = {check.name for check in CHECKS if check.readyz} - {
        name for row in ROWS for name in row.checks if any(one not in row.others for one, _ in _BY_NAME[name].readyz)
    }
    assert unasked == set()


def test_a_row_that_is_late_or_not_named_does_not_hold() -> None:
    row = ROWS[0]
    for seconds, missing, holds in ((1.0, [], True), (5.1, [], False), (1.0, ["status: leader"], False)):
        outcome = Outcome(row.name, row.what, {"status": seconds, "verify": 1.0, "services": 1.0}, missing)
        assert (not wrong(outcome)) == holds
        assert f"| {row.what} | `replicas`, `leader` | {seconds:.1f} s |" in markdown([outcome])


def test_a_name_that_selects_no_row_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert [row.name for row in SUITE.chosen(["pin", "unwritable"])] == ["unwritable", "pin", "unwritable-ca"]
    with pytest.raises(SystemExit) as ended:
        SUITE.chosen(["pin", "nosuch"])
    assert ended.value.code == 2
    assert "there is no row 'nosuch'" in capsys.readouterr().err
