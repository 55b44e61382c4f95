"""Writes and deletes the pin: the event by which a person puts a past version's policy in force."""

from __future__ import annotations

import getpass
import secrets
from datetime import UTC, datetime

import msgspec

from cli.history.log_source import LogSource
from cli.history.object_states import newest_event
from cli.history.timeline import Timeline, in_force
from cli.terminal import output
from shared.build import VERSION
from shared.errors import BadInputError
from shared.eventlog.protocol import BatchTooLargeError, Draft, EventLog, EventLogError, StaleWriterError
from shared.records import events
from shared.records.events import Event, EventOrigin, ObjectKey
from shared.records.pins import PIN_KIND, PIN_NAME, PINNED_KINDS, Pin, pin_of

_ATTEMPTS = 50


async def pin_to(timeline: Timeline, version: int, why: str) -> tuple[int, Pin]:
    """Pin the mesh to a version. Returns the sequence of the event, and the pin.

    Raises `BadInputError` if the log cannot be written, or the policy does not fit into one record.
    """
    past = [
        (item.sequence, item.event)
        for key, item in sorted(in_force(await timeline.state(version)).items())
        if key.kind in PINNED_KINDS
    ]
    pin = pin_of(version, why, past)
    try:
        return await _append(timeline.source, events.encode_object(pin)), pin
    except BatchTooLargeError as error:
        raise BadInputError("pin/too-large", f"the policy of version {version} does not fit: {error}") from error


async def going_back(timeline: Timeline, version: int) -> list[tuple[ObjectKey, str]]:
    """Return the policy objects that a pin to a version would change, and how, sorted.

    Compared with the policy in force now, which may be that of another pin.
    """
    now = in_force(await timeline.state(await newest_event(timeline.source)))
    then = in_force(await timeline.state(version))
    found: list[tuple[ObjectKey, str]] = []
    for key in sorted(key for key in {*now, *then} if key.kind in PINNED_KINDS):
        before, after = now.get(key), then.get(key)
        if after is None:
            found.append((key, "goes"))
        elif before is None:
            found.append((key, f"comes back as of event {after.sequence}"))
        elif before.event.object != after.event.object:
            found.append((key, f"goes back to event {after.sequence}"))
    return found


async def unpin(source: LogSource) -> int:
    """Delete the pin. Returns the sequence of the event."""
    return await _append(source, None)


async def _append(source: LogSource, body: msgspec.Raw | None) -> int:
    log = source.writable
    if log is None:
        raise BadInputError("history/read-only", "an exported file cannot be written; name the live log")
    identity = secrets.token_hex(8)
    event = Event(
        schema=events.SCHEMA,
        cluster=source.about.cluster,
        kind=PIN_KIND,
        namespace="",
        name=PIN_NAME,
        uid=identity,
        resource_version=identity,
        operation=events.DELETED if body is None else events.APPLIED,
        api_version="" if body is None else f"meshlog.io/{VERSION}",
        object=body,
        origin=EventOrigin(
            source="operator", manager=getpass.getuser(), time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ),
    )
    payload = events.encode(event)
    sequence = await _after_whatever_comes(log, source.scope, Draft(event.subject(source.streams), payload, identity))
    await _keep_copy(source, payload)
    return sequence


async def _after_whatever_comes(log: EventLog, scope: str, draft: Draft) -> int:
    for attempt in range(_ATTEMPTS):
        try:
            return (await log.append([draft], scope=scope, after=await log.tip(scope))).sequence
        except StaleWriterError:
            # The ingestor appended first. The pin depends on no object of the ingestor, so append it after that event.
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


async def _keep_copy(source: LogSource, payload: bytes) -> None:
    """Keep a copy of the pin for an epoch that is derived from Kubernetes, which does not store pins."""
    if source.pins is None:
        return
    try:
        await source.pins.publish(Draft(source.streams.pin_subject(source.about.cluster), payload))
    except EventLogError as error:
        output.note(f"it is in force, but its copy was not written: a log derived anew would forget it ({error})")
