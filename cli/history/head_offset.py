"""Resolves `HEAD~n`: the n-th version before the newest, where pins are not counted as versions.

A pin adds no policy: it puts that of an old version in force again. So one step back from a pinned mesh leads to the
version before the pinned one; otherwise a second `rollback HEAD~1` would restore what the first one undid. The end of
a pin is skipped too, with every version published during the pin, unless policy was recorded in that time.
"""

from __future__ import annotations

import msgspec

from cli.history.timeline import Timeline
from shared.errors import BadInputError
from shared.records import events
from shared.records.pins import PIN_KIND, PIN_NAME, PINNED_KINDS, in_force_by, version_of


class PinEvent(msgspec.Struct, frozen=True):
    """A pin, or the end of one."""

    sequence: int
    version: int
    """The version that the mesh is pinned to; 0 if the event ends the pin."""


async def version_back(timeline: Timeline, steps: int) -> int:
    """Return the version `steps` before the newest. Raises `BadInputError` if the log keeps fewer."""
    pin_events, version = await _turns(timeline), await timeline.head()
    for _ in range(steps):
        try:
            version = await _one_back(timeline, pin_events, version)
        except BadInputError as error:
            sentence = f"the log keeps fewer than {steps} versions before the newest (pins are not counted)"
            raise BadInputError("history/version", sentence) from error
    return version


async def _one_back(timeline: Timeline, pin_events: list[PinEvent], version: int) -> int:
    before = await timeline.version_before(version)
    crossed = [pin_event for pin_event in pin_events if before < pin_event.sequence <= version]
    if not crossed:
        return before or await timeline.newest_below(version)
    last = crossed[-1]
    if last.version:
        return await timeline.newest_below(min(last.version, version))
    began = _began(pin_events, last)
    untouched = not await _recorded(timeline, began, last.sequence)
    outside = await timeline.newest_below(began)
    return await _one_back(timeline, pin_events, outside) if untouched else outside


def _began(pin_events: list[PinEvent], end: PinEvent) -> int:
    """Return the sequence of the pin that an event ended; if several pins followed each other, of the first."""
    began = end.sequence
    for pin_event in reversed([pin_event for pin_event in pin_events if pin_event.sequence < end.sequence]):
        if not pin_event.version:
            break
        began = pin_event.sequence
    return began


async def _recorded(timeline: Timeline, after: int, until: int) -> bool:
    """Whether policy was recorded between two events."""
    async for item in timeline.history(after=after, until=until):
        if item.event.kind in PINNED_KINDS:
            return True
    return False


async def _turns(timeline: Timeline) -> list[PinEvent]:
    source, found = timeline.source, list[PinEvent]()
    subject = source.streams.event_subject(source.about.cluster, PIN_KIND, "", PIN_NAME)
    async for item in timeline.history(subjects=subject):
        try:
            version = version_of(item.event) if in_force_by(item.event) is not None else 0
        except events.CorruptEventError:
            continue  # compilers skip it too
        found.append(PinEvent(item.sequence, version))
    return found
