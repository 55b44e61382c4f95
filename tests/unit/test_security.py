"""docs/security.md says what the code does: rights of users and accounts, limits and their settings."""

from __future__ import annotations

from pathlib import Path

from deploy.install.service_workloads import SERVICES
from deploy.nats import PEOPLE
from tools import security

ROOT = Path(__file__).parents[2]


def test_the_tables_are_those_of_the_code() -> None:
    page = security.PAGE.read_text(encoding="utf-8")
    assert security.rendered(page) == page, "run tools/security.py"


def test_every_user_of_the_log_has_a_row_and_only_services_and_the_operator_write() -> None:
    rows = {row[0].strip("`"): row[1] for row in security.users()}
    assert set(rows) == {*(service.name for service in SERVICES), *PEOPLE}
    assert rows["reader"] == "nothing"
    assert "Pin" in rows["operator"]


def test_only_services_that_talk_to_the_api_have_rights_there() -> None:
    allowed = {f"meshlog-{service.name}" for service in SERVICES if service.kubernetes}
    assert {row[0].strip("`") for row in security.rights()} == allowed


def test_how_to_report_is_linked_and_names_no_address() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "private security advisory" in text
    assert "@" not in text
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "docs/security.md" in readme
    assert "SECURITY.md" in readme
