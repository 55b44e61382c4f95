"""Plain data of the reports on objects: conditions and events to write, outcomes, rates."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from services.ingestor.core.observations import NamespacedName, Projected
from services.ingestor.status.conditions import Condition

Key = tuple[str, NamespacedName]
"""Kind and name."""


class ConditionReport(msgspec.Struct, frozen=True):
    """The conditions to write on one object."""

    object: Projected
    conditions: tuple[Condition, ...]


class ObjectEvent(msgspec.Struct, frozen=True):
    """A Kubernetes event to write about one object."""

    kind: str
    name: NamespacedName
    uid: str
    resource_version: str
    api_version: str
    """Empty: the version that is ingested."""
    reason: str
    message: str


class Outcome(StrEnum):
    """The result of writing a report or an event."""

    WRITTEN = "written"
    REFUSED = "refused"
    """The API server refuses this object's report."""
    LATER = "later"
    """The API server could not write any; the counter of `RetryLater`."""


class RetryLater(msgspec.Struct, frozen=True):
    """The API server is unavailable or overloaded."""

    seconds: float
    """Delay that it requested; 0: none."""


class PinnedForms(msgspec.Struct, frozen=True):
    """The policy that a pin keeps in force."""

    version: int
    """The version with this policy."""
    forms: Mapping[Key, tuple[str, str]]
    """Object → uid and digest of its form in force."""


class ReportPace(msgspec.Struct, frozen=True):
    """Delays in seconds and rates of the reports."""

    look: float = 0.2
    """Least time between two rounds."""
    settle: float = 0.5
    """How long an object must rest after a change before its status is written."""
    overdue: float = 30.0
    """Longest wait of an object that never rests."""
    patience: float = 1.0
    """How long a proxy may lag before a condition names it: most acknowledge sooner."""
    again: float = 2.0
    """Until the same object is written again."""
    drain: float = 2.0
    """Time in which all waiting objects are written, within the following bounds."""
    most: float = 800.0
    """Objects per second, at most."""
    least: float = 20.0
    """Objects per second that are always allowed."""
    at_once: int = 16
    """Concurrent requests."""
    news: float = 20.0
    """Events per second, at most."""
    refused: float = 600.0
    """Until an object is tried again whose status the API server refuses."""
    stand_by: float = 1.0
    """As a standby: between checks whether to write."""
    outage: float = 5.0
    """Delay after a failure of the API server or of the log."""
    asked: float = 60.0
    """Longest delay that the API server may request."""

    def delay_after(self, failure: RetryLater) -> float:
        """Returns the seconds to wait after a failure."""
        return min(failure.seconds, self.asked) or self.outage
