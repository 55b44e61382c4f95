"""docs/health.md is the table of checks, and names every field of the JSON."""

from __future__ import annotations

import ast
import inspect

from cli.health import findings_output
from cli.verbs.state import status
from tests.unit.cli.health.facts import WELL
from tools.health_page import PAGE, page


def test_the_page_has_the_table_of_checks() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run tools/health_page.py"


def test_every_field_of_the_json_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("## The JSON")[2]
    tree = ast.parse(inspect.getsource(status._of_log))  # pyright: ignore[reportPrivateUsage]
    (returned,) = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    assert isinstance(returned, ast.Dict)
    fields = [str(key.value) for key in returned.keys if isinstance(key, ast.Constant)]
    fields += findings_output.as_json([])
    assert len(fields) > 15
    assert [name for name in fields if f"`{name}`" not in text] == []
    assert WELL.log is not None
