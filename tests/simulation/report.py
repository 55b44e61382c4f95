"""The results of many runs, printed for people and written as one JSON object (`JSON=file`)."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.simulation.mistakes import MISTAKES
from tests.simulation.run import Outcome

_EVERY = 5.0
"""Seconds between lines of progress on a terminal."""
_SEEDS = 500
"""Seeds between lines of progress elsewhere."""


class Report:
    """The sum of outcomes."""

    def __init__(self) -> None:
        self.seeds = 0
        self.failed: list[Outcome] = []
        self._began = time.monotonic()
        self._kinds: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()
        self._settled: list[float] = []
        self._schedules: set[bytes] = set()

    def add(self, outcome: Outcome) -> None:
        """Take one more."""
        self.seeds += 1
        self._schedules.add(hashlib.sha256("\n".join(outcome.faults).encode()).digest())
        self._kinds.update(outcome.kinds)
        self._sums.update(
            faults=len(outcome.faults),
            changes=outcome.changes,
            epochs=outcome.epochs > 1,
            compared=outcome.compared,
            awaits=outcome.awaits,
            claims=outcome.claims,
        )
        if outcome.broken:
            self.failed.append(outcome)
        else:
            self._settled.append(outcome.settled)

    def text(self) -> str:
        """All of it, for people."""
        sums, settled = self._sums, sorted(self._settled)
        summary = (
            f"{self.seeds} seeds, {len(self._schedules)} distinct fault schedules with {sums['faults']} faults and "
            f"{sums['changes']} changes, {sums['awaits']} awaits at which a crash could fall; {sums['epochs']} with "
            f"more than one epoch; {sums['compared']} commits compared with a compile from scratch; "
            f"{sums['claims']} times a version was said to have arrived; "
            f"{self._seconds:.0f} s"
        )
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self._kinds.items()))
        lines = [summary, f"faults: {kinds}"]
        if settled:
            middle = settled[len(settled) // 2]
            lines.append(f"settled after {middle:.2f} s (median), {settled[-1]:.2f} s (longest), simulated")
        for outcome in self.failed[:20]:
            lines.append(f"\nseed {outcome.seed}: repeat it by: python -m tests.simulation --seed {outcome.seed}")
            lines += [f"  {why}" for why in outcome.broken[:5]]
        held = "every promise held in every run"
        lines.append(f"{len(self.failed)} of {self.seeds} failed" if self.failed else held)
        return "\n".join(lines)

    def write(self) -> None:
        """One JSON object into the file that the environment variable JSON names, if any."""
        if path := os.environ.get("JSON"):
            Path(path).write_bytes(msgspec.json.encode(self._object()))

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _object(self) -> dict[str, object]:
        settled = sorted(self._settled)
        return {
            "seeds": self.seeds,
            "distinct_schedules": len(self._schedules),
            "faults": self._sums["faults"],
            "faults_by_kind": dict(sorted(self._kinds.items())),
            "changes": self._sums["changes"],
            "commits_compared": self._sums["compared"],
            "arrivals_claimed": self._sums["claims"],
            "settled_median_s": settled[len(settled) // 2] if settled else None,
            "settled_longest_s": settled[-1] if settled else None,
            "seconds": self._seconds,
            "failures": {outcome.seed: outcome.broken for outcome in self.failed},
        }


class Progress:
    """A line on stderr now and then, for as long as it takes."""

    def __init__(self, seeds: int) -> None:
        self._seeds = seeds
        self._began = self._told = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def line(self, report: Report) -> str:
        """The progress, if it is time to print it; else empty."""
        now = time.monotonic()
        due = now >= self._told + _EVERY if self._terminal else report.seeds % _SEEDS == 0
        if not due or report.seeds >= self._seeds:
            return ""
        self._told = now
        left = (now - self._began) / report.seeds * (self._seeds - report.seeds)
        return f"{report.seeds} of {self._seeds} seeds, {len(report.failed)} failed, {left:.0f} s to go"


class MistakeFound(NamedTuple):
    """What became of one mistake."""

    name: str
    seeds: int
    """Until it was noticed; 0: it was not."""
    said: str
    seconds: float


def mistakes_table(found: list[MistakeFound]) -> tuple[str, int]:
    """The table, and how many went unnoticed, or harmed though they must not."""
    wrong = 0
    width = max(len(one.name) for one in found)
    lines = [f"{'mistake':<{width}}  seeds  what it said first"]
    for one in found:
        mistake = MISTAKES[one.name]
        right = bool(one.seeds) != mistake.harmless
        wrong += not right
        if mistake.harmless:
            said = "harms nobody, as it should" if right else f"HARMS: {one.said}"
        else:
            said = one.said if right else "NOT NOTICED"
        lines.append(f"{one.name:<{width}}  {one.seeds or '-':>5}  {said}")
        lines.append(f"{'':<{width}}         ({mistake.what})")
    lines.append(f"{wrong} of {len(found)} not as they should be" if wrong else f"all {len(found)} as they should be")
    return "\n".join(lines), wrong
