"""The requests that write records, and their refusals as errors of `shared.eventlog.protocol`."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence

from shared.eventlog.jetstream.fullness import explained
from shared.eventlog.jetstream.nats_connection import NatsSession
from shared.eventlog.jetstream.stream_api import (
    BATCH_ABANDONED,
    BATCH_COMMIT,
    BATCH_ID,
    BATCH_SEQUENCE,
    DUPLICATE_IN_BATCH,
    EXPECTED_SEQUENCE,
    EXPECTED_SUBJECT,
    MESSAGE_ID,
    SMALL_WITHIN,
    WITHIN,
    WRONG_LAST_SEQUENCE,
    JetStreamApiError,
    answer_of,
)
from shared.eventlog.protocol import BatchAbandonedError, Draft, DuplicateError, LogFullError, StaleWriterError


async def append_batch(
    session: NatsSession,
    stream: str,
    drafts: Sequence[Draft],
    headers: Sequence[Mapping[str, str]],
    *,
    scope: str,
    end: int,
) -> int:
    """Write the drafts atomically, each with its headers, if the scope ends at `end`.

    Returns the sequence of the last record. Raises `StaleWriterError`, `DuplicateError`, `BatchAbandonedError`,
    `LogFullError`, `LogUnavailableError`, and `JetStreamApiError` for other refusals.
    """
    expected = {EXPECTED_SEQUENCE: str(end), EXPECTED_SUBJECT: scope}
    try:
        if len(drafts) == 1:
            return await _append_one(session, drafts[0], {**headers[0], **expected})
        return await _append_many(session, drafts, headers, expected)
    except JetStreamApiError as error:
        if error.number in WRONG_LAST_SEQUENCE:
            raise StaleWriterError(
                "log/stale-writer", f"the scope no longer ends at {end}: read on", about=scope
            ) from error
        if error.number == DUPLICATE_IN_BATCH:
            raise DuplicateError("log/duplicate", "a message id was seen before", about=scope) from error
        if error.number in BATCH_ABANDONED:
            sentence = f"the server gave the batch up ({error.reason}), nothing of it is written; try again"
            raise BatchAbandonedError("log/batch-abandoned", sentence, about=scope) from error
        raise
    except LogFullError as error:
        raise await explained(session, stream, error) from error


async def publish(session: NatsSession, stream: str, draft: Draft, headers: Mapping[str, str]) -> int:
    """Write one unchained record; return its sequence, or the earlier one if its message id was seen.

    Raises `LogFullError`, `LogUnavailableError`, and `JetStreamApiError` for other refusals.
    """
    message = await session.request(draft.subject, draft.payload, within=SMALL_WITHIN, headers=headers)
    try:
        return int(answer_of(message, about=draft.subject)["seq"])
    except LogFullError as error:
        raise await explained(session, stream, error) from error


async def _append_one(session: NatsSession, draft: Draft, headers: Mapping[str, str]) -> int:
    identified = {**headers, MESSAGE_ID: draft.message_id} if draft.message_id else headers
    message = await session.request(draft.subject, draft.payload, within=SMALL_WITHIN, headers=identified)
    answer = answer_of(message, about=draft.subject)
    if answer.get("duplicate"):
        raise DuplicateError("log/duplicate", f"message id {draft.message_id} was seen before", about=draft.subject)
    return int(answer["seq"])


async def _append_many(
    session: NatsSession, drafts: Sequence[Draft], headers: Sequence[Mapping[str, str]], expected: Mapping[str, str]
) -> int:
    """One atomic batch (ADR-50): the server stores nothing before the commit, and then all of it."""
    batch = base64.urlsafe_b64encode(secrets.token_bytes(15)).decode()
    for index, (draft, chained) in enumerate(zip(drafts, headers, strict=True), start=1):
        sent = {**chained, BATCH_ID: batch, BATCH_SEQUENCE: str(index)}
        if index == 1:
            sent |= expected
        if draft.message_id:
            sent[MESSAGE_ID] = draft.message_id
        if index < len(drafts):
            await session.publish(draft.subject, draft.payload, headers=sent)
            continue
        sent[BATCH_COMMIT] = "1"
        message = await session.request(draft.subject, draft.payload, within=WITHIN, headers=sent)
        return int(answer_of(message, about=draft.subject)["seq"])
    raise AssertionError("a batch has at least one record")
