"""The table of `make faults`: a line for each fault, on the terminal and in docs/reliability.md."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.fault import Outcome

_WIDTH = 58


def title() -> str:
    """What the columns are; times in seconds."""
    return (
        f"{'fault':<{_WIDTH}} {'failed':>12} {'takeover':>9} {'meanwhile':>9} {'after':>7} {'fresh':>6} {'ready':>6}\n"
        f"{'':<{_WIDTH}} {'/requests':>12} {'s':>9} {'s':>9} {'s':>7} {'s':>6} {'s':>6}"
    )


def line(outcome: Outcome) -> str:
    """One row."""
    held = "   DOES NOT HOLD" if outcome.wrong else "   LATE" if outcome.late else ""
    epochs = f"   {outcome.epochs} epoch" if outcome.epochs else ""
    return (
        f"{outcome.what:<{_WIDTH}} {f'{outcome.failed}/{outcome.requests}':>12} {_seconds(outcome.takeover):>9} "
        f"{_seconds(outcome.during):>9} {_seconds(outcome.after):>7} {_seconds(outcome.fresh):>6} "
        f"{outcome.recovered:>6.1f}{epochs}{held}"
    )


def summary(outcomes: Sequence[Outcome]) -> str:
    """All rows in one sentence."""
    requests = sum(outcome.requests for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    held = sum(not outcome.wrong and not outcome.late for outcome in outcomes)
    return f"{held} of {len(outcomes)} faults hold; {failed} of {requests} requests failed"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table of docs/reliability.md."""
    columns = (
        *("Fault", "Requests failed", "Another leads", "A change made in its first moment"),
        *("A change after its end", "All ready again", "`make faults ROWS=`"),
    )
    lines = [f"| {' | '.join(columns)} |", "|---|---:|---:|---:|---:|---:|---|"]
    lines += [
        f"| {outcome.what} | {outcome.failed} of {outcome.requests} | {_told(outcome.takeover)} "
        f"| {_told(outcome.during)} | {_told(outcome.after)} | {outcome.recovered:.1f} s | `{outcome.name}` |"
        for outcome in outcomes
    ]
    return "\n".join(lines)


def _told(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"
