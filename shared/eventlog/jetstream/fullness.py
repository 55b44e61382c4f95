"""Explains a full log: which limit it reached, and how to make room.

A full stream refuses new records (`discard: new`), so nothing is lost: writers wait, and readers go on. The error has
to name the cause, because changes no longer arrive.
"""

from __future__ import annotations

from shared.eventlog.jetstream.nats_connection import NatsSession
from shared.eventlog.jetstream.stream_api import call
from shared.eventlog.protocol import EventLogError, LogFullError

_LIMITS = (("max_bytes", "bytes", "--max-bytes"), ("max_msgs", "messages", "--max-msgs"))
"""Limit of a stream, what of its state counts towards it, and how it is raised."""


async def explained(session: NatsSession, stream: str, error: LogFullError) -> LogFullError:
    """Return the error with the limit and its remedy; unchanged if the log does not answer now."""
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
