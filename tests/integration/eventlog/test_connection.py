"""Requests on one connection, answered by another that does not always answer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from shared.eventlog.connection import Connection, Line
from shared.eventlog.nats_client import Msg
from shared.eventlog.protocol import LogUnavailableError
from tests.nats_server import NatsServer

pytestmark = pytest.mark.nats


@contextlib.asynccontextmanager
async def a_line(server: NatsServer) -> AsyncGenerator[Line]:
    connection = Connection(server.access)
    connection.open()
    try:
        yield await connection.line(within=5)
    finally:
        await connection.close()


class Forgetful:
    """Somebody who hears every question and answers the third: a stream that has no leader until then."""

    def __init__(self, line: Line) -> None:
        self.heard = 0
        self._line = line

    async def hear(self, message: Msg) -> None:
        """A question."""
        self.heard += 1
        if self.heard == 3:
            await self._line.publish(message.reply, b"here")


@pytest.fixture
async def line(tmp_path: Path) -> AsyncGenerator[Line]:
    server = NatsServer(tmp_path)
    server.start()
    try:
        async with a_line(server) as made:
            yield made
    finally:
        server.stop()


async def test_what_may_be_said_twice_is_answered_as_soon_as_somebody_answers(line: Line) -> None:
    somebody = Forgetful(line)
    await line.client.subscribe("question", cb=somebody.hear)
    assert (await line.request("question", b"", within=20, again=0.05)).data == b"here"
    assert somebody.heard == 3


async def test_what_may_not_be_said_twice_is_said_once(line: Line) -> None:
    somebody = Forgetful(line)
    await line.client.subscribe("order", cb=somebody.hear)
    with pytest.raises(LogUnavailableError):
        await line.request("order", b"", within=0.3)
    assert somebody.heard == 1


async def test_a_question_that_nobody_answers_ends_in_time(line: Line) -> None:
    somebody = Forgetful(line)
    somebody.heard = 3
    await line.client.subscribe("question", cb=somebody.hear)
    with pytest.raises(LogUnavailableError):
        await line.request("question", b"", within=0.3, again=0.05)
    assert somebody.heard > 4
