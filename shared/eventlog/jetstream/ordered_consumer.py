"""Reading a JetStream stream in order: an ordered consumer that notices everything that can go wrong with it.

The server pushes; there is nothing to poll. Each message has the consumer's own running number, each heartbeat
the last number sent, so a dropped message, a consumer that is gone and a server that is gone all show. Whoever
reads starts a new consumer where it stood. Flow control is answered as messages are taken, so a slow reader slows
the server down instead of filling memory.
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
"""Seconds after which an idle server says that it is there."""

_SILENCE = 2.5 * HEARTBEAT
_ALIVE = "100"
_PATIENCE = (0.3, 0.5, 1.0, 1.0, 1.0)
"""Seconds that each of the questions for a consumer of one name may take, before one of another name is asked for."""


class ConsumerLostError(LogUnavailableError):
    """Messages went missing on the way or the server fell silent: start a new consumer where reading stood."""


class _Inbox:
    """Messages of one subscription, taken one by one without a task for each."""

    def __init__(self) -> None:
        self._messages: deque[Msg] = deque()
        self._waiter: asyncio.Future[None] | None = None

    async def put(self, message: Msg) -> None:
        """What the subscription calls."""
        self._messages.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self, session: NatsSession) -> Msg:
        """The next message; `ConsumerLostError` after silence, `LogUnavailableError` when the line breaks."""
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
    """Yield records as the server delivers them, and none whenever it has nothing more for now.

    The first none may come before any record, if the stream holds nothing that is wanted. `policy` is where to
    start (`deliver_policy` and so on). Raises `ConsumerLostError` and `LogUnavailableError`; both mean: start again.
    """
    inbox = _Inbox()
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
    """Answer flow control, check a heartbeat; true if the server has nothing more for now."""
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
    """Create the consumer; how many records wait for it. It vanishes by itself soon after nobody listens."""
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
            # Without a leader nobody answers. Asking again under the same name is asking for the same consumer.
            if error.code != "log/timeout" or asked == len(_PATIENCE):
                raise
            continue
        # One that was made by an unanswered request may have sent what it had already: its heartbeat will tell.
        return int(answer.get("num_pending", 0)) if asked == 1 else 1
    raise AssertionError("a consumer is asked for at least once")
