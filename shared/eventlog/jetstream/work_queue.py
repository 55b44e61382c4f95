"""Takes jobs off a work-queue stream, by a durable pull consumer that all takers of a group share.

Pull instead of push: a taker holds only as many jobs as it can work on, and a taker that ends holds them no longer than
the stream's `acknowledge_within`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import msgspec

from shared.eventlog.jetstream.nats_client import Msg, NatsError
from shared.eventlog.jetstream.nats_connection import NatsSession
from shared.eventlog.jetstream.stream_api import NANOSECONDS, STATUS, call, delivery_of, record_of
from shared.eventlog.protocol import Job, LogUnavailableError, Record
from shared.eventlog.stream_spec import StreamSpec

_BATCH = 32
"""Jobs asked for at once: enough to hide the round trip, few enough to be done within their time."""
_WAIT = 30.0
"""Seconds after which a request for jobs expires and is repeated."""
_HEARTBEAT = 1.5
"""Seconds between heartbeats of the server for a request that has not expired."""
_SILENCE = 2.5 * _HEARTBEAT
"""Seconds without a heartbeat after which the request is repeated: it is lost with the server that led the stream."""
_OVER = frozenset({"404", "408"})
_ALIVE = "100"


class _JetStreamJob:
    """A record taken from a work queue."""

    def __init__(self, session: NatsSession, message: Msg) -> None:
        self._session = session
        self._reply = message.reply
        self._record = record_of(message, delivery_of(message))

    @property
    def record(self) -> Record:
        """What was taken."""
        return self._record

    async def done(self) -> None:
        """Take it out of the queue for good; `LogUnavailableError` leaves it there for another taker."""
        await self._session.publish(self._reply, b"+ACK")

    async def retry(self, *, after: float) -> None:
        """Put it back; another taker may have it after `after` seconds."""
        delay = msgspec.json.encode({"delay": int(after * NANOSECONDS)})
        await self._session.publish(self._reply, b"-NAK " + delay)


async def take_jobs(session: NatsSession, spec: StreamSpec, group: str) -> AsyncGenerator[Job, None]:
    """Yield jobs until the session ends (`LogUnavailableError`)."""
    config = {
        "durable_name": group,
        "ack_policy": "explicit",
        "ack_wait": int(spec.acknowledge_within * NANOSECONDS),
        "deliver_policy": "all",
        "replay_policy": "instant",
        "max_deliver": -1,
        "max_ack_pending": 1000,
        "max_waiting": 64,
    }
    request = {"stream_name": spec.name, "config": config, "action": ""}
    await call(session, spec.name, f"CONSUMER.CREATE.{spec.name}.{group}", request)
    messages: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = session.client.new_inbox()
    try:
        subscription = await session.client.subscribe(inbox, cb=messages.put)
    except (NatsError, OSError) as error:
        raise LogUnavailableError("log/unavailable", "the log cannot be reached now; try again") from error
    ask = msgspec.json.encode(
        {"batch": _BATCH, "expires": int(_WAIT * NANOSECONDS), "idle_heartbeat": int(_HEARTBEAT * NANOSECONDS)}
    )
    try:
        while True:
            await session.publish(f"{session.api(spec.name)}.CONSUMER.MSG.NEXT.{spec.name}.{group}", ask, reply=inbox)
            open_jobs = _BATCH
            while open_jobs:
                message = await _next(session, messages)
                if message is None:
                    break
                status = (message.headers or {}).get(STATUS, "")
                if status in _OVER:
                    break
                if status == _ALIVE:
                    continue
                if status:
                    raise LogUnavailableError("log/consumer", f"the queue's consumer ended ({status})", about=spec.name)
                open_jobs -= 1
                yield _JetStreamJob(session, message)
    finally:
        with contextlib.suppress(NatsError, OSError):
            await subscription.unsubscribe()


async def _next(session: NatsSession, messages: asyncio.Queue[Msg]) -> Msg | None:
    """Return the next message; None if the request for jobs must be repeated."""
    if not messages.empty():
        return messages.get_nowait()
    getting = asyncio.ensure_future(messages.get())
    try:
        await asyncio.wait({getting, session.lost}, return_when=asyncio.FIRST_COMPLETED, timeout=_SILENCE)
        if getting.done():
            return getting.result()
        if session.lost.done():
            raise LogUnavailableError("log/unavailable", "the connection was lost; try again")
        return None
    finally:
        getting.cancel()
