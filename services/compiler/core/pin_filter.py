"""Which policy is in force: the newest, or that of a pin.

Stands in front of `reduce`: it turns one event into the events to fold. While a pin is in force, events about policy
are only remembered; when it goes, the newest of each is folded. So the result is that of a log which had never been
written to since, as far as policy goes, and everything else goes on. A function of the events alone, as all of it.
"""

from __future__ import annotations

import contextlib

import msgspec

from shared.records import pins
from shared.records.events import DELETED, CorruptEventError, Event, ObjectKey
from shared.records.pins import PIN_KIND, PINNED_KINDS
from shared.records.snapshot import Quarantined

Step = tuple[Event, int]
"""An event to fold, and its sequence."""


def refuse_future(event: Event) -> None:
    """Raise `FutureEventError` if it pins what a newer build wrote; everything else is looked at when it is folded."""
    if event.kind == PIN_KIND:
        with contextlib.suppress(CorruptEventError):
            pins.in_force_by(event)


class PinFilter:
    """Knows the newest policy and the pinned one."""

    def __init__(self) -> None:
        self.rejected: Quarantined | None = None
        """A pin that cannot be read; what was in force before it stays."""
        self._newest: dict[ObjectKey, Step] = {}
        self._pinned: dict[ObjectKey, Step] | None = None

    @property
    def in_force(self) -> bool:
        """Whether past policy is in force."""
        return self._pinned is not None

    def steps(self, event: Event, sequence: int) -> list[Step]:
        """What to fold instead of this event."""
        if event.kind == PIN_KIND:
            return self._turn(event, sequence)
        if event.kind not in PINNED_KINDS:
            return [(event, sequence)]
        if event.operation == DELETED:
            self._newest.pop(event.key, None)
        else:
            self._newest[event.key] = (event, sequence)
        return [] if self._pinned is not None else [(event, sequence)]

    def _turn(self, event: Event, sequence: int) -> list[Step]:
        before = self._newest if self._pinned is None else self._pinned
        self.rejected = None
        try:
            pinned = pins.in_force_by(event)
        except CorruptEventError as error:
            self.rejected = Quarantined(key=event.key, code="pin/corrupt", sentence=f"is not in force: {error}")
            return []
        self._pinned = None if pinned is None else {item.key: (item, at) for at, item in pinned}
        after = self._newest if self._pinned is None else self._pinned
        # All of it goes and comes, also what stays the same: an object that cannot be read would otherwise leave its
        # last good form in force or not, depending on what happened before. What ends up equal costs nothing more.
        gone = [
            (msgspec.structs.replace(item, operation=DELETED, object=None), sequence)
            for _, (item, _) in sorted(before.items())
        ]
        return [*gone, *(after[key] for key in sorted(after))]
