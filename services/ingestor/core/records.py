"""Encodes changes as records of the log (payload and message id), and packs them into atomic batches. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from services.ingestor.core.log_diff import AppliedChange, Change
from shared.eventlog.protocol import MAX_BATCH, Draft
from shared.records import events
from shared.records.subjects import Streams

TracedChange = tuple[Change, str]
"""A change, and the `traceparent` of the trace that it begins."""


def draft(change: Change, traceparent: str, *, cluster: str, streams: Streams, turn: str) -> Draft:
    """Encode a change. `turn` (the epoch) distinguishes this attempt to append it from a legitimate later one."""
    if isinstance(change, AppliedChange):
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
    # The sequence of the replaced record is part of the id: the same object may be appended again (its CRD was removed
    # and restored, a new epoch began), the same *step* may not.
    identity = f"{cluster}/{event.kind}/{event.uid or event.name}/{event.resource_version}/{mark}"
    return Draft(
        subject=event.subject(streams),
        payload=events.encode(event),
        message_id=f"{identity}/{turn}@{change.basis}",
        headers={"traceparent": traceparent},
    )


def packed(units: Sequence[list[TracedChange]]) -> list[list[TracedChange]]:
    """Pack units into batches of at most `MAX_BATCH` records; only a unit that is larger by itself is split."""
    batches: list[list[TracedChange]] = []
    current: list[TracedChange] = []
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
