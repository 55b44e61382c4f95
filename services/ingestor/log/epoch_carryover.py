"""What a new epoch takes along that Kubernetes cannot tell: the pin that a person wrote.

Everything else in the events is derived anew from Kubernetes when the log was lost or found broken. A pin has its copy
in a stream of its own, written by the same command that writes the event; a new epoch says it again, so that policy
that somebody took out of force in an emergency does not come back because a disk failed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from shared.eventlog.protocol import Draft, Logs
from shared.records import events
from shared.records.pins import PIN_KIND, PIN_NAME
from shared.records.subjects import Streams

_log = logging.getLogger(__name__)

Carried = Callable[[str], Awaitable[list[Draft]]]
"""Given the id of a new epoch, the records that it takes along. Raises `LogUnavailableError`."""


async def nothing(_epoch: str) -> list[Draft]:
    """For a log that nobody pins."""
    return []


def pins_of(logs: Logs, streams: Streams, cluster: str) -> Carried:
    """The pin in force, by its copy; it is looked at when an epoch begins."""

    async def carried(epoch: str) -> list[Draft]:
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
            # Neither in force nor passed over: whoever compiles stops at it until a newer build is there.
            subject = streams.event_subject(cluster, PIN_KIND, "", PIN_NAME)
            return [Draft(subject, record.payload, message_id=f"pin/{record.sequence}/{epoch}")]
        if event.kind != PIN_KIND or event.cluster != cluster or event.operation != events.APPLIED:
            return []
        _log.warning("the new epoch is pinned, as the one before it was", extra={"epoch": epoch})
        return [Draft(event.subject(streams), record.payload, message_id=f"{event.uid}/{epoch}")]

    return carried
