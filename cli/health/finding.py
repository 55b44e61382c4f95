"""What a check is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from cli.health.facts import HealthFacts

Severity = Literal["error", "warning"]
"""`error`: changes or requests do not get through now. `warning`: they do, and a person should know all the same."""
CheckState = Literal["well", "found", "unknown"]


class Fault(msgspec.Struct, frozen=True):
    """One thing that is not as it should be, as a check sees it."""

    about: str
    """Component or object; empty: the mesh."""
    sentence: str


class Judgement(msgspec.Struct, frozen=True):
    """What one check says."""

    found: tuple[Fault, ...] = ()
    """Empty: all of it is well."""
    seen: str = ""
    """What was seen where all is well."""


class MetricSignal(msgspec.Struct, frozen=True, kw_only=True):
    """How the services' metrics say the same: a family over all processes, and what of it is a breach."""

    family: str
    total: Literal["sum", "max"] = "max"
    labels: tuple[tuple[str, str], ...] = ()
    below: float | None = None
    """A breach, also if no process has the family."""
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
        """Whether the metrics of all processes, as (family, labels, value), say it."""
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
    """What is well if it finds nothing."""
    reads: Literal["cluster", "log"]
    severity: Severity
    judge: Callable[[HealthFacts], Judgement]
    remedy: str
    """What to do next; empty: each finding's sentence says it."""
    signals: tuple[MetricSignal, ...] = ()
    """Metrics of which any says it."""
    readyz: tuple[tuple[str, str], ...] = ()
    """(service, name): what of `/readyz` of which service says it, as a reason or as a remark."""
    condition: str = ""
    """Condition of the objects concerned that says it."""


class HealthFinding(msgspec.Struct, frozen=True):
    """What a check found, for people and machines."""

    check: str
    severity: Severity
    about: str
    sentence: str
    remedy: str


class CheckResult(msgspec.Struct, frozen=True):
    """One check, judged."""

    check: str
    what: str
    state: CheckState
    seen: str
    """What was seen, or why nothing was."""
    findings: tuple[HealthFinding, ...]
