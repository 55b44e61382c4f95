"""A log that takes no more: which limit it met, and what makes room.

All streams refuse what is new when they are full (`discard: new`), so nothing is lost: writers wait, and readers read
on. But nobody may have to guess why changes do not arrive.
"""

from __future__ import annotations

from shared.eventlog.jetstream.nats_connection import NatsSession
from shared.eventlog.jetstream.stream_api import call
from shared.eventlog.protocol import EventLogError, LogFullError

_LIMITS = (("max_bytes", "bytes", "--max-bytes"), ("max_msgs", "messages", "--max-msgs"))
"""Limit of a stream, what of its state counts towards it, and how it is raised."""


async def explained(session: NatsSession, stream: str, error: LogFullError) -> LogFullError:
    """The same error in a sentence that somebody can act on; as it was if the log cannot say more now."""
    try:
        info = await call(session, stream, f"STREAM.INFO.{stream}")
    except EventLogError:
        return error
    longest = int(info["config"].get("max_msg_size", -1))
    raised = f"nats stream edit {stream}"
    shorter = f"a record is longer than it takes, max_msg_size is {longest:,}: raise it ({raised} --max-msg-size=…)"
    met = [shorter] if error.of_stream and longest > 0 else []
    met += [
        f"it holds {int(info['state'][counted]):,} {counted}, {limit} is {int(info['config'][limit]):,}: "
        f"raise it ({raised} {option}=…) or keep less history"
        for limit, counted, option in _LIMITS
        if error.of_stream and int(info["config"].get(limit, -1)) > 0
    ]
    room = "; ".join(met) or "raise max_file_store of the NATS servers, or give their disks room"
    sentence = f"the log is full ({error.reason}): changes wait, none is lost; {room}"
    return LogFullError(error.code, sentence, about=stream, reason=error.reason)
