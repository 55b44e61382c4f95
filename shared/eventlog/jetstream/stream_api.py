"""The part of the JetStream wire protocol that the log needs: requests, errors, and records.

Sent over a plain NATS connection, because nats-py's JetStream context cannot send atomic batches, keeps a push
consumer's heartbeats to itself, and its types leave out what newer servers understand (`allow_atomic`). The
protocol: NATS ADR-1 (JSON API), ADR-13 (pull), ADR-17 (ordered consumers), ADR-50 (atomic batches).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from email.parser import BytesHeaderParser
from typing import Any

import msgspec

from shared.eventlog.foreign import COPIED_FROM
from shared.eventlog.jetstream.nats_client import Msg
from shared.eventlog.jetstream.nats_connection import NatsSession
from shared.eventlog.protocol import EventLogError, LogFullError, LogUnavailableError, Record
from shared.eventlog.stream_spec import READ_ONLY_USERS, StreamSpec
from shared.io.decoding import UndecodableError, decode

WITHIN = 5.0
"""Seconds that the answer to a write may take; after it, the writer must read what was written."""
SMALL_WITHIN = 2.5
"""The same for one record, and for the creation of a stream: both are idempotent."""
ANSWERED_WITHIN = 1.0
"""Seconds that the answer to a query may take."""
AGAIN = 0.2
"""Seconds after which a query is repeated. A stream without a leader does not answer, and a request that was sent
before the election gets no answer after it: measured after `kill -9`, waiting cost more than the election."""

MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
BATCH_ID = "Nats-Batch-Id"
BATCH_SEQUENCE = "Nats-Batch-Sequence"
BATCH_COMMIT = "Nats-Batch-Commit"
LAST_CONSUMER = "Nats-Last-Consumer"
STALLED = "Nats-Consumer-Stalled"
STATUS = "Status"

WRONG_LAST_SEQUENCE = frozenset({10071, 10164})
DUPLICATE_IN_BATCH = 10201
BATCH_ABANDONED = frozenset({10176, 10210})
"""A batch of which the server holds nothing (any more), and one too many at the same time."""
NO_MESSAGE = 10037
NO_STREAM = 10059
NO_CONSUMER = 10014
NAME_IN_USE = 10058

NANOSECONDS = 1_000_000_000


_STORE_FAILED = 10077
RECORD_TOO_LARGE = 10054
"""The stream's limit of record size is below the record; it is accepted once an operator raises the limit."""
_NO_STORAGE = frozenset({10002, 10023, 10028, 10047})
"""Resources of the account or of the server are used up."""


class JetStreamApiError(EventLogError):
    """The server refused a request."""

    def __init__(self, number: int, status: int, description: str, *, about: str) -> None:
        super().__init__(f"log/nats-{number}", f"the log server refuses: {description}", about=about)
        self.number = number
        self.reason = description
        self.status = status


class StreamInfo(msgspec.Struct, frozen=True):
    """First and last sequence of a stream, and when it was created."""

    first: int
    last: int
    count: int
    created: str


async def call(
    session: NatsSession,
    stream: str,
    subject: str,
    request: Any = None,
    *,
    within: float = ANSWERED_WITHIN,
    again: float | None = None,
) -> dict[str, Any]:
    """One request of the JSON API about a stream; see `NatsSession.request` for `within` and `again` (seconds).

    Raises `JetStreamApiError` where the server refuses, `LogUnavailableError` where it cannot answer now.
    """
    payload = msgspec.json.encode(request) if request is not None else b""
    message = await session.request(f"{session.api(stream)}.{subject}", payload, within=within, again=again)
    return answer_of(message, about=subject)


async def ask(session: NatsSession, stream: str, subject: str, request: Any = None) -> dict[str, Any]:
    """Send a request that changes nothing; repeat it until a server answers."""
    return await call(session, stream, subject, request, again=AGAIN)


def answer_of(message: Msg, *, about: str) -> dict[str, Any]:
    """The JSON answer to an API request or an append; raises as `call` does."""
    try:
        answer = decode(dict[str, Any], message.data)
    except UndecodableError as error:
        raise EventLogError("log/answer", f"the log server's answer cannot be read ({error})", about=about) from error
    error = answer.get("error")
    if error:
        status, number = int(error.get("code", 0)), int(error.get("err_code", 0))
        description = str(error.get("description", ""))
        if full := _full(number, description):
            raise LogFullError(full, f"takes no more ({description}); try again", about=about, reason=description)
        if status == 503:
            raise LogUnavailableError("log/unavailable", f"{description}; try again", about=about)
        raise JetStreamApiError(number, status, description, about=about)
    return answer


def _full(number: int, description: str) -> str:
    if number in _NO_STORAGE or (number == _STORE_FAILED and "no space" in description):
        return "log/storage-full"
    limited = number == RECORD_TOO_LARGE or (number == _STORE_FAILED and description.startswith("maximum "))
    return "log/stream-full" if limited else ""


async def stream_info(session: NatsSession, stream: str) -> StreamInfo:
    """Ask the stream's leader."""
    answer = await ask(session, stream, f"STREAM.INFO.{stream}")
    state = answer["state"]
    first, last = int(state["first_seq"]), int(state["last_seq"])
    count = int(state["messages"])
    if not count:
        first = last + 1
    return StreamInfo(first=first, last=last, count=count, created=str(answer["created"]))


async def ensure_stream(
    session: NatsSession, spec: StreamSpec, *, within: float = SMALL_WITHIN, user: str = ""
) -> dict[str, Any]:
    """Create a stream, or leave it as it is; its configuration. What an operator tuned on an older one stays.

    Its existence is checked first: the stream's own leader answers that as soon as there is one, even if the cluster
    has no metadata leader, which would have to create it. A creation without an answer `within` seconds may have
    succeeded: repeat it. Creating is idempotent on the server, so services that start at
    once may race. Only what the log's correctness rests on is added to a stream that exists: its subjects, atomic
    batches, the duplicate window.

    `user` is the NATS user: some may not create streams, and only its owner may change one (`StreamSpec.owner`). For
    others, raises `LogUnavailableError` while the stream is missing, and uses it unchanged.
    """
    wanted = stream_config(spec)
    there = await _there(session, spec.name, within=min(within, ANSWERED_WITHIN))
    if there is None:
        if user in READ_ONLY_USERS:
            raise LogUnavailableError("log/no-stream", "is not there yet; another service creates it", about=spec.name)
        try:
            return (await call(session, spec.name, f"STREAM.CREATE.{spec.name}", wanted, within=within))["config"]
        except JetStreamApiError as error:
            if error.number != NAME_IN_USE:
                raise
        there = (await ask(session, spec.name, f"STREAM.INFO.{spec.name}"))["config"]
    needed = {key: wanted[key] for key in ("subjects", "allow_atomic", "allow_direct", "duplicate_window")}
    # What is false the server leaves out.
    lacks = any(there.get(key, False) != value for key, value in needed.items())
    if lacks and user in {"", spec.owner}:
        update = f"STREAM.UPDATE.{spec.name}"
        return (await call(session, spec.name, update, {**there, **needed}, within=WITHIN))["config"]
    return there


async def _there(session: NatsSession, stream: str, *, within: float) -> dict[str, Any] | None:
    """Return the configuration of a stream; None if it does not exist."""
    try:
        return (await call(session, stream, f"STREAM.INFO.{stream}", within=within, again=AGAIN))["config"]
    except JetStreamApiError as error:
        if error.number != NO_STREAM:
            raise
        return None


def stream_config(spec: StreamSpec) -> dict[str, Any]:
    """Return the configuration of a stream in the form of the server."""
    return {
        "name": spec.name,
        "description": spec.description,
        "subjects": list(spec.subjects),
        "retention": "workqueue" if spec.retention == "work_queue" else "limits",
        "storage": "file",
        "discard": "new",
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": int(spec.max_age * NANOSECONDS),
        "max_msgs_per_subject": spec.max_per_subject or -1,
        "max_msg_size": -1,
        "num_replicas": spec.replicas,
        "duplicate_window": int(spec.duplicate_window * NANOSECONDS),
        "allow_direct": True,
        "allow_atomic": spec.retention == "limits",
    }


class Delivery(msgspec.Struct, frozen=True):
    """The reply subject of a delivered message (ADR-15): `$JS.ACK.….stream.consumer.n.seq.cseq.time.left`."""

    stream_sequence: int
    consumer_sequence: int
    time: int
    pending: int


def delivery_of(message: Msg) -> Delivery:
    """Read the reply subject; the form with a domain has two tokens more in front and one behind."""
    parts = message.reply.split(".")
    numbers = parts[5:9] if len(parts) == 9 else parts[7:11]
    stream_sequence, consumer_sequence, time, pending = map(int, numbers)
    return Delivery(stream_sequence=stream_sequence, consumer_sequence=consumer_sequence, time=time, pending=pending)


def record_of(message: Msg, delivery: Delivery) -> Record:
    """A delivered message as a record."""
    return Record(
        subject=message.subject,
        sequence=delivery.stream_sequence,
        payload=message.data,
        time=delivery.time,
        headers=_ours(message.headers or {}),
        pending=delivery.pending,
    )


async def last_record(session: NatsSession, stream: str, subject: str) -> Record | None:
    """The newest record of a subject or wildcard, from the stream's leader."""
    return await _stored(session, stream, {"last_by_subj": subject})


async def record_at(session: NatsSession, stream: str, sequence: int) -> Record | None:
    """The first record at or after a sequence, from the stream's leader."""
    return await _stored(session, stream, {"seq": max(sequence, 1), "next_by_subj": ">"})


async def _stored(session: NatsSession, stream: str, which: Mapping[str, Any]) -> Record | None:
    try:
        answer = await ask(session, stream, f"STREAM.MSG.GET.{stream}", which)
    except JetStreamApiError as error:
        if error.number == NO_MESSAGE:
            return None
        raise
    stored = answer["message"]
    raw = base64.b64decode(stored.get("hdrs", ""))
    parsed = BytesHeaderParser().parsebytes(raw.partition(b"\r\n")[2]) if raw else {}
    return Record(
        subject=stored["subject"],
        sequence=int(stored["seq"]),
        payload=base64.b64decode(stored.get("data", "")),
        time=_nanoseconds(stored["time"]),
        headers=_ours({key: str(value) for key, value in parsed.items()}),
    )


def _ours(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that the writer meant for readers; the server's own stay below, but its mark on a copy."""
    return {key: value for key, value in headers.items() if not key.startswith("Nats-") or key == COPIED_FROM}


def _nanoseconds(moment: str) -> int:
    """RFC 3339 with up to nine decimals, in nanoseconds since 1970."""
    whole, _, rest = moment.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * NANOSECONDS + int(rest.ljust(9, "0")[:9] or 0)
