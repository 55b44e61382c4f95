"""The table of `make health`: a line for each row, on the terminal and in docs/health.md."""

from __future__ import annotations

from collections.abc import Sequence

from tests.health.matrix import WITHIN, Outcome
from tests.health.rows import ROWS

_NAMES = ("status", "verify", "services", "condition")


def line(outcome: Outcome) -> str:
    """One row."""
    parts = "  ".join(f"{name} {took:.1f} s" for name, took in outcome.seconds.items())
    return f"{outcome.name:<18} {outcome.what:<32} {parts}"


def wrong(outcome: Outcome) -> list[str]:
    """What did not name it, or late."""
    late = [f"LATE: {name} {took:.1f} s" for name, took in outcome.seconds.items() if took > WITHIN]
    return [f"MISSING: {one}" for one in outcome.missing] or late


def summary(outcomes: Sequence[Outcome]) -> str:
    """All rows in one sentence."""
    named = sum(not wrong(outcome) for outcome in outcomes)
    return f"{named} of {len(outcomes)} are named by everything within {WITHIN:g} s"


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table of docs/health.md."""
    checks = {row.name: ", ".join(f"`{name}`" for name in row.checks) for row in ROWS}
    columns = (
        "Provoked",
        "Named by",
        "`status`",
        "`verify`",
        "`/readyz` and metrics",
        "Condition",
        "`make health ROWS=`",
    )
    lines = [f"| {' | '.join(columns)} |", "|---|---|---:|---:|---:|---:|---|"]
    for one in outcomes:
        seconds = [f"{one.seconds[name]:.1f} s" if name in one.seconds else "" for name in _NAMES]
        lines.append(f"| {one.what} | {checks[one.name]} | {' | '.join(seconds)} | `{one.name}` |")
    return "\n".join(lines)
