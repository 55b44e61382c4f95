"""An ordered consumer that is made while the log's leader changes: asked for again, and never taken for empty."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest

from shared.eventlog.jetstream.nats_connection import NatsSession, api_prefix
from shared.eventlog.jetstream.ordered_consumer import deliver
from shared.eventlog.protocol import LogUnavailableError, Record


class Message(msgspec.Struct):
    """As the client delivers one."""

    data: bytes
    headers: dict[str, str]
    reply: str
    subject: str = "mesh.events.c1"


class Server:
    """Does not answer the first requests; a consumer that it was asked for sends its record all the same."""

    def __init__(self, *, silent: int) -> None:
        self.client = self
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asked: list[str] = []
        self._silent = silent
        self._deliver: Callable[[Any], Awaitable[None]] | None = None

    def new_inbox(self) -> str:
        return "_INBOX.a"

    def api(self, _stream: str) -> str:
        return api_prefix("")

    async def subscribe(self, _: str, *, cb: Callable[[Any], Awaitable[None]], **__: int) -> Server:
        self._deliver = cb
        return self

    async def unsubscribe(self) -> None:
        return

    async def request(self, subject: str, _: bytes, **__: float) -> Message:
        self.asked.append(subject)
        assert self._deliver is not None
        if len(self.asked) == 1:
            await self._deliver(Message(b"{}", {}, "$JS.ACK.S.c.1.7.1.1000000000.0"))
        if len(self.asked) <= self._silent:
            raise LogUnavailableError("log/timeout", "no answer", about=subject)
        return Message(b'{"num_pending": 0}', {}, "")


async def taken(server: Server, count: int) -> list[Record | None]:
    """The first that is delivered."""
    found: list[Record | None] = []
    records = deliver(cast("NatsSession", server), "S", subjects=">", policy={})
    async with contextlib.aclosing(records):
        while len(found) < count:
            found.append(await anext(records))
    return found


async def test_what_an_unanswered_request_made_is_asked_for_by_the_same_name_and_not_taken_for_empty() -> None:
    """Its record came before the answer, which then said that nothing is pending: a reader would have ended there."""
    server = Server(silent=2)
    first, second = await taken(server, 2)
    assert first is not None
    assert first.sequence == 7
    assert second is None
    assert len(server.asked) == 3
    assert len(set(server.asked)) == 1


async def test_an_empty_stream_is_said_to_be_empty_at_once() -> None:
    assert await taken(Server(silent=0), 1) == [None]


async def test_a_server_that_never_answers_is_given_up() -> None:
    with pytest.raises(LogUnavailableError):
        await taken(Server(silent=99), 1)
