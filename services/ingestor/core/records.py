"""Changes as records of the log: their payload, their id, and how they are packed into atomic batches. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from services.ingestor.core.diff import Applied, Change
from shared.eventlog.protocol import MAX_BATCH, Draft
from shared.records import events
from shared.records.subjects import Streams

Traced = tuple[Change, str]
"""A change, and the trace context that it begins."""


def draft(change: Change, traceparent: str, *, cluster: str, streams: Streams, turn: str) -> Draft:
    """The record of a change. `turn`: what tells this attempt to write it from a rightful later one (the epoch)."""
    if isinstance(change, Applied):
        item = change.object
        event = events.Event(
            schema=events.SCHEMA,
            cluster=cluster,
            kind=item.kind,
            namespace=item.name.namespace,
            name=item.name.name,
            uid=item.uid,
            resource_version=item.resource_version,
            operation=events.APPLIED,
            api_version=item.api_version,
            object=msgspec.Raw(item.body),
            origin=item.origin,
            withheld=item.withheld,
            why=item.why,
        )
        mark = item.digest
    else:
        event = events.Event(
            schema=events.SCHEMA,
            cluster=cluster,
            kind=change.kind,
            namespace=change.name.namespace,
            name=change.name.name,
            uid=change.uid,
            resource_version=change.resource_version,
            operation=events.DELETED,
            origin=change.origin,
        )
        mark = "deleted"
    # The record that this one replaces is part of the id: the same object may rightly come again (its CRD vanished
    # and returned, a new epoch began), the same *step* may not.
    identity = f"{cluster}/{event.kind}/{event.uid or event.name}/{event.resource_version}/{mark}"
    return Draft(
        subject=event.subject(streams),
        payload=events.encode(event),
        message_id=f"{identity}/{turn}@{change.basis}",
        headers={"traceparent": traceparent},
    )


def packed(units: Sequence[list[Traced]]) -> list[list[Traced]]:
    """Units into batches of at most `MAX_BATCH` records; only a unit that is larger by itself is split."""
    batches: list[list[Traced]] = []
    current: list[Traced] = []
    for unit in units:
        if current and len(current) + len(unit) > MAX_BATCH:
            batches.append(current)
            current = []
        current = current + unit
        while len(current) > MAX_BATCH:
            batches.append(current[:MAX_BATCH])
            current = current[MAX_BATCH:]
    if current:
        batches.append(current)
    return batches
