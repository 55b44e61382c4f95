"""Prints findings and checks for people and machines, in the same way for every verb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cli.health.checks import findings, unknown
from cli.health.finding import CheckResult, HealthFinding
from cli.terminal import output

_SHOWN = 5
"""Maximum number of findings of one check that are shown."""


def well(results: Sequence[CheckResult]) -> bool:
    """Whether there are no findings."""
    return not findings(results)


def headline(results: Sequence[CheckResult]) -> str:
    """A sentence on all results; reports that all is well only if every check could run."""
    found, missing = findings(results), unknown(results)
    unseen = f"; not looked at: {', '.join(one.check for one in missing)} ({missing[0].seen})" if missing else ""
    if found:
        errors = sum(one.severity == "error" for one in found)
        return f"{_count(errors, 'error')}, {_count(len(found) - errors, 'warning')}{unseen}"
    if missing:
        return f"nothing wrong in what was looked at{unseen}"
    return f"all is well: {len(results)} checks"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def tell(results: Sequence[CheckResult]) -> None:
    """Print each finding on a line, errors first, and the remedy once for each check."""
    shown: dict[str, int] = {}
    found = findings(results)
    for number, one in enumerate(found):
        shown[one.check] = shown.get(one.check, 0) + 1
        if shown[one.check] <= _SHOWN:
            output.line(f"  {one.severity:<8} {one.check:<16} {one.sentence}")
        if number + 1 == len(found) or found[number + 1].check != one.check:
            if shown[one.check] > _SHOWN:
                output.line(f"  {'':<25} and {shown[one.check] - _SHOWN} more")
            output.line(f"  {'':<25} -> {one.remedy}")


def as_json(results: Sequence[CheckResult]) -> dict[str, Any]:
    """The JSON document that docs/health.md describes."""
    return {
        "well": well(results),
        "complete": not unknown(results),
        "findings": [_finding(one) for one in findings(results)],
        "checks": [{"check": one.check, "what": one.what, "state": one.state, "seen": one.seen} for one in results],
    }


def _finding(one: HealthFinding) -> dict[str, str]:
    return {
        "check": one.check,
        "severity": one.severity,
        "about": one.about,
        "sentence": one.sentence,
        "remedy": one.remedy,
    }
