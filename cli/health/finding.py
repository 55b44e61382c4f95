"""Types of checks and of their findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from cli.health.facts import HealthFacts

Severity = Literal["error", "warning"]
"""`error`: changes or requests do not get through now. `warning`: they do, and a person should act all the same."""
CheckState = Literal["well", "found", "unknown"]


class Fault(msgspec.Struct, frozen=True):
    """One problem that a check has found."""

    about: str
    """Component or object; empty for the whole mesh."""
    sentence: str


class Judgement(msgspec.Struct, frozen=True):
    """The conclusion of one check."""

    found: tuple[Fault, ...] = ()
    """Empty if all is well."""
    seen: str = ""
    """The observation if all is well."""


class MetricSignal(msgspec.Struct, frozen=True, kw_only=True):
    """A metric that reports the same problem: a family over all processes, and the bound whose breach does."""

    family: str
    total: Literal["sum", "max"] = "max"
    labels: tuple[tuple[str, str], ...] = ()
    below: float | None = None
    """A lower value is a breach, also if no process has the family."""
    above: float | None = None

    @property
    def promql(self) -> str:
        """As the expression of an alert."""
        labels = ",".join(f'{key}="{value}"' for key, value in self.labels)
        read = f"{self.total}({self.family}{f'{{{labels}}}' if labels else ''})"
        if self.below is not None:
            return f"({read} or vector(0)) < {self.below:g}"
        return f"{read} > {self.above:g}"

    def breached(self, samples: Iterable[tuple[str, Mapping[str, str], float]]) -> bool:
        """Whether the metrics of all processes, as (family, labels, value), breach the bound."""
        values = [
            value
            for family, labels, value in samples
            if family == self.family and all(labels.get(key) == wanted for key, wanted in self.labels)
        ]
        total = (sum(values) if self.total == "sum" else max(values)) if values else 0.0
        if self.below is not None:
            return total < self.below
        return self.above is not None and total > self.above


class HealthCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    name: str
    what: str
    """The healthy state, which holds if it finds nothing."""
    reads: Literal["cluster", "log"]
    severity: Severity
    judge: Callable[[HealthFacts], Judgement]
    remedy: str
    """What to do next; empty if each finding's sentence has its own remedy."""
    signals: tuple[MetricSignal, ...] = ()
    """Metrics each of which reports the problem."""
    readyz: tuple[tuple[str, str], ...] = ()
    """(service, name) of reasons or remarks of `/readyz` that report the problem."""
    condition: str = ""
    """Condition of the objects concerned that reports the problem."""


class HealthFinding(msgspec.Struct, frozen=True):
    """What a check found, for people and machines."""

    check: str
    severity: Severity
    about: str
    sentence: str
    remedy: str


class CheckResult(msgspec.Struct, frozen=True):
    """The result of one check."""

    check: str
    what: str
    state: CheckState
    seen: str
    """The observation, or why there is none."""
    findings: tuple[HealthFinding, ...]
