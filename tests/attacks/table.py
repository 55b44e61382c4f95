"""The table of `make attack`: a line for each attack, on the terminal and in docs/security.md."""

from __future__ import annotations

from collections.abc import Sequence

from tests.attacks.attack import Cost, Outcome

_WIDTH = 58


def title() -> str:
    """What the columns are; times in seconds."""
    columns = f"{'served s':>14} {'pod s':>6} {'change s':>8} {'failed':>10} {'restarts':>8}"
    return f"{'attack':<{_WIDTH}} {'cost to the attacker':<40} {columns}   most memory, MB"


def line(outcome: Outcome) -> str:
    """One row."""
    held = "   DOES NOT HOLD" if outcome.wrong else "   LATE" if outcome.late else ""
    served = f"{_seconds(outcome.served_p50)}/{_seconds(outcome.served_max)}"
    return (
        f"{outcome.what:<{_WIDTH}} {cost(outcome.cost):<40} {served:>14} {_seconds(outcome.admitted_max):>6} "
        f"{_seconds(outcome.changed_max):>8} {f'{outcome.failed}/{outcome.requests}':>10} {outcome.restarts:>8}   "
        f"{memory(outcome)}{held}"
    )


def cost(spent: Cost) -> str:
    """What an attack cost, in a few words."""
    parts = [
        f"{spent.connections} connections" if spent.connections else "",
        f"{spent.requests} requests" if spent.requests else "",
        _size(spent.bytes) if spent.bytes else "",
        f"{spent.seconds:.0f} s",
    ]
    return ", ".join(part for part in parts if part)


def memory(outcome: Outcome) -> str:
    """The services that took most, each with MB."""
    ordered = sorted(outcome.memory.items(), key=lambda one: -one[1])
    return ", ".join(f"{service} {size}" for service, size in ordered[:4])


def summary(outcomes: Sequence[Outcome]) -> str:
    """All rows in one sentence."""
    requests = sum(outcome.requests for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    held = sum(not outcome.wrong and not outcome.late for outcome in outcomes)
    return f"{held} of {len(outcomes)} attacks are held off; {failed} of {requests} requests between members failed"


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table of docs/security.md."""
    columns = (
        *("Attack", "Cost to the attacker", "Result", "A member is served: p50, longest"),
        *("A pod is admitted", "A change arrives", "Requests failed", "Most memory, MB", "`make attack ROWS=`"),
    )
    lines = [f"| {' | '.join(columns)} |", "|---|---|---|---:|---:|---:|---:|---|---|"]
    lines += [
        f"| {one.what} | {cost(one.cost)} | {one.cost.said} "
        f"| {_seconds(one.served_p50)} s, {_seconds(one.served_max)} s "
        f"| {_seconds(one.admitted_max)} s | {_seconds(one.changed_max)} s | {one.failed} of {one.requests} "
        f"| {memory(one)} | `{one.name}` |"
        for one in outcomes
    ]
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
