"""What is written on objects and told beside them, how that may end, and at which pace: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from services.ingestor.core.observations import ObjectName, Projected
from services.ingestor.status.conditions import Condition

Key = tuple[str, ObjectName]
"""Kind and name."""


class Report(msgspec.Struct, frozen=True):
    """What is to be written on one object."""

    object: Projected
    conditions: tuple[Condition, ...]


class News(msgspec.Struct, frozen=True):
    """What is worth an event beside an object."""

    kind: str
    name: ObjectName
    uid: str
    resource_version: str
    api_version: str
    """Empty: as the kind is served."""
    reason: str
    message: str


Outcome = Literal["written", "refused", "later"]
"""Of writing: `refused` is the object's own fault, `later` everybody's."""


class Later(msgspec.Struct, frozen=True):
    """As the outcome `later`, of a server that says when: it has too much to do."""

    seconds: float
    """How long it asks to wait; 0: it does not say."""


class Pinned(msgspec.Struct, frozen=True):
    """What a pin keeps in force instead of the newest policy."""

    version: int
    """The version whose policy it is."""
    forms: Mapping[Key, tuple[str, str]]
    """Object → uid and digest of the form that is in force."""


class Pace(msgspec.Struct, frozen=True):
    """Seconds, unless it says otherwise."""

    look: float = 0.2
    """Between two looks at what has changed, at least."""
    settle: float = 0.5
    """How long an object has to rest after a change before it is told anything."""
    overdue: float = 30.0
    """How long one waits at most that never rests."""
    patience: float = 1.0
    """How long a proxy may lag before that is said: most have acknowledged by then, and are never mentioned."""
    again: float = 2.0
    """Until the same object is written again."""
    drain: float = 2.0
    """In which all that waits is written, within the bounds that follow."""
    most: float = 800.0
    """Objects a second, at most."""
    least: float = 20.0
    """Objects a second that are never too many."""
    at_once: int = 16
    """Requests at the same time."""
    news: float = 20.0
    """Events a second, at most."""
    refused: float = 600.0
    """Until an object is tried again whose status the API server does not take."""
    stand_by: float = 1.0
    """As a standby: between looks at whether to write."""
    outage: float = 5.0
    """After a failure of the API server or of the log."""
    asked: float = 60.0
    """After a failure of which the API server says how long to wait: that long, and this at most."""
