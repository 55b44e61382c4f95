"""Writes the table of checks into docs/health.md, between its two marks; a test holds the page to it.

python tools/health_page.py
"""

from __future__ import annotations

from pathlib import Path

from cli.health.checks import CHECKS
from cli.health.finding import HealthCheck

PAGE = Path(__file__).parents[1] / "docs" / "health.md"
BEGIN, END = "<!-- the checks -->\n", "<!-- end of the checks -->\n"
_COLUMNS = ("Check", "Well if", "Else", "What to do", "Metric (any of)", "`/readyz`", "Condition")


def table() -> str:
    """The rows, in the order in which a person should repair."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    lines += [f"| {' | '.join(_cells(check))} |" for check in CHECKS]
    return "\n".join(lines) + "\n"


def _cells(check: HealthCheck) -> tuple[str, ...]:
    return (
        f"`{check.name}`",
        check.what,
        check.severity,
        check.remedy,
        "<br>".join(f"`{signal.promql}`" for signal in check.signals),
        ", ".join(f"{service}: {name}" for service, name in check.readyz),
        check.condition,
    )


def page(text: str) -> str:
    """The page with the table as it should be."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}{table()}{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
