"""Reads a JetStream stream in order, by an ordered consumer (ADR-17) that detects every loss.

The server pushes. Each message has the consumer's own running number, and each heartbeat the last number sent, so a
dropped message, a lost consumer and a lost server are all detected. The reader then starts a new consumer at its
position. Flow control is answered as messages are taken, so a slow reader slows the server down instead of filling
memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

from shared.eventlog.jetstream.nats_client import Msg, NatsError
from shared.eventlog.jetstream.nats_connection import NatsSession
from shared.eventlog.jetstream.stream_api import (
    LAST_CONSUMER,
    NANOSECONDS,
    STALLED,
    STATUS,
    call,
    delivery_of,
    record_of,
)
from shared.eventlog.protocol import LogUnavailableError, Record

HEARTBEAT = 1.0
"""Seconds after which an idle server sends a heartbeat."""

_SILENCE = 2.5 * HEARTBEAT
_ALIVE = "100"
_PATIENCE = (0.3, 0.5, 1.0, 1.0, 1.0)
"""Seconds that each attempt to create a consumer of one name may take; after the last, another name is used."""


class ConsumerLostError(LogUnavailableError):
    """Messages were lost or heartbeats are missing: start a new consumer at the position of the reader."""


class _MessageInbox:
    """Messages of one subscription, read without a task for each."""

    def __init__(self) -> None:
        self._messages: deque[Msg] = deque()
        self._waiter: asyncio.Future[None] | None = None

    async def put(self, message: Msg) -> None:
        """Called by the subscription."""
        self._messages.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self, session: NatsSession) -> Msg:
        """Return the next message.

        Raises `ConsumerLostError` without heartbeats, `LogUnavailableError` if the session ends.
        """
        while not self._messages:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(_SILENCE):
                    await asyncio.wait({self._waiter, session.lost}, return_when=asyncio.FIRST_COMPLETED)
            except TimeoutError as error:
                raise ConsumerLostError("log/silent", f"no heartbeat for {_SILENCE:g} s") from error
            if session.lost.done() and not self._messages:
                raise LogUnavailableError("log/unavailable", "the connection was lost; try again")
        return self._messages.popleft()


async def deliver(
    session: NatsSession, stream: str, *, subjects: str, policy: dict[str, Any]
) -> AsyncGenerator[Record | None, None]:
    """Yield records as the server delivers them, and None whenever it has nothing more for now.

    The first None may come before any record, if the stream holds none that is wanted. `policy` is where to start
    (`deliver_policy` and its fields). Raises `LogUnavailableError` (`ConsumerLostError` is one): call it again.
    """
    inbox = _MessageInbox()
    subject = session.client.new_inbox()
    try:
        subscription = await session.client.subscribe(
            subject, cb=inbox.put, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
    except (NatsError, OSError) as error:
        raise LogUnavailableError("log/unavailable", "the log cannot be reached now; try again") from error
    try:
        if await _create(session, stream, subject, subjects, policy) == 0:
            yield None
        seen = 0
        while True:
            message = await inbox.get(session)
            if STATUS in (message.headers or {}) and not message.data:
                if await _control(session, stream, message, seen):
                    yield None
                continue
            delivery = delivery_of(message)
            seen += 1
            if delivery.consumer_sequence != seen:
                raise ConsumerLostError("log/gap", "messages were lost on the way", about=stream)
            yield record_of(message, delivery)
            if not delivery.pending:
                yield None
    finally:
        with contextlib.suppress(NatsError, OSError):
            await subscription.unsubscribe()


async def _control(session: NatsSession, stream: str, message: Msg, seen: int) -> bool:
    """Answer flow control or check a heartbeat; return whether the server has nothing more for now."""
    headers = message.headers or {}
    if headers[STATUS] != _ALIVE:
        raise ConsumerLostError("log/consumer", f"the consumer ended ({headers[STATUS]})", about=stream)
    if answer := message.reply or headers.get(STALLED):
        await session.publish(answer, b"")
        return False
    if int(headers.get(LAST_CONSUMER, seen)) != seen:
        raise ConsumerLostError("log/gap", "messages were lost on the way", about=stream)
    return True


async def _create(session: NatsSession, stream: str, inbox: str, subjects: str, policy: dict[str, Any]) -> int:
    """Create the consumer; return how many records wait for it. It is deleted soon after the subscription ends."""
    name = secrets.token_hex(8)
    path = f"CONSUMER.CREATE.{stream}.{name}"
    config: dict[str, Any] = {
        "name": name,
        "deliver_subject": inbox,
        "ack_policy": "none",
        "max_deliver": 1,
        "replay_policy": "instant",
        "mem_storage": True,
        "num_replicas": 1,
        "flow_control": True,
        "idle_heartbeat": int(HEARTBEAT * NANOSECONDS),
        "inactive_threshold": 5 * NANOSECONDS,
        **policy,
    }
    if subjects != ">":
        config["filter_subject"] = subjects
        path += f".{subjects}"
    request = {"stream_name": stream, "config": config, "action": ""}
    for asked, within in enumerate(_PATIENCE, start=1):
        try:
            answer = await call(session, stream, path, request, within=within)
        except LogUnavailableError as error:
            # A stream without a leader does not answer. The same name again means the same consumer.
            if error.code != "log/timeout" or asked == len(_PATIENCE):
                raise
            continue
        # A consumer that an unanswered request created may have sent all it had: its heartbeat will show that.
        return int(answer.get("num_pending", 0)) if asked == 1 else 1
    raise AssertionError("a consumer is asked for at least once")
