"""Copies the operator's pin into a new epoch: the one record that cannot be derived from Kubernetes.

All other events are derived from Kubernetes again after the log was lost or found broken. A pin has a copy in a stream
of its own, which the command that writes the event writes too. A new epoch appends it again, so that policy that an
operator took out of force does not return because a disk failed.
"""

from __future__ import annotations

import logging

from shared.eventlog.protocol import Draft, Logs
from shared.records import events
from shared.records.pins import PIN_KIND, PIN_NAME
from shared.records.subjects import Streams

_log = logging.getLogger(__name__)


async def carried_pins(logs: Logs, streams: Streams, cluster: str, epoch: str) -> list[Draft]:
    """Returns the pin in force as a record of a new epoch; empty if there is none. Raises `LogUnavailableError`."""
    copies = await logs.open(streams.pins)
    record = await copies.last(streams.pin_subject(cluster))
    if record is None:
        return []
    try:
        event = events.decode(record.payload)
    except events.CorruptEventError as error:
        _log.error("the copy of the pin cannot be read, the newest policy is in force: %s", error)
        return []
    except events.FutureEventError:
        # Append it undecoded: compilers stop at it until a newer build runs.
        subject = streams.event_subject(cluster, PIN_KIND, "", PIN_NAME)
        return [Draft(subject, record.payload, message_id=f"pin/{record.sequence}/{epoch}")]
    if event.kind != PIN_KIND or event.cluster != cluster or event.operation != events.APPLIED:
        return []
    _log.warning("the new epoch is pinned, as the one before it was", extra={"epoch": epoch})
    return [Draft(event.subject(streams), record.payload, message_id=f"{event.uid}/{epoch}")]
