"""Requests on one connection, answered by another that does not always answer."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from deploy.install.profile import chosen
from deploy.install.secrets import log_secrets
from deploy.nats import NatsConfig
from shared.eventlog.jetstream.nats_client import Msg
from shared.eventlog.jetstream.nats_connection import LogAccess, NatsConnection, NatsSession
from shared.eventlog.protocol import LogUnavailableError
from tests.nats_server import NatsServer
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = pytest.mark.nats


@contextlib.asynccontextmanager
async def a_session(server: NatsServer) -> AsyncGenerator[NatsSession]:
    connection = NatsConnection(server.access)
    connection.open()
    try:
        yield await connection.session(within=5)
    finally:
        await connection.close()


class Forgetful:
    """Somebody who hears every question and answers the third: a stream that has no leader until then."""

    def __init__(self, session: NatsSession) -> None:
        self.heard = 0
        self._session = session

    async def hear(self, message: Msg) -> None:
        """A question."""
        self.heard += 1
        if self.heard == 3:
            await self._session.publish(message.reply, b"here")


@pytest.fixture
async def session(tmp_path: Path) -> AsyncGenerator[NatsSession]:
    server = NatsServer(tmp_path)
    server.start()
    try:
        async with a_session(server) as made:
            yield made
    finally:
        server.stop()


async def test_what_may_be_said_twice_is_answered_as_soon_as_somebody_answers(session: NatsSession) -> None:
    somebody = Forgetful(session)
    await session.client.subscribe("question", cb=somebody.hear)
    assert (await session.request("question", b"", within=20, again=0.05)).data == b"here"
    assert somebody.heard == 3


async def test_what_may_not_be_said_twice_is_said_once(session: NatsSession) -> None:
    somebody = Forgetful(session)
    await session.client.subscribe("order", cb=somebody.hear)
    with pytest.raises(LogUnavailableError):
        await session.request("order", b"", within=0.3)
    assert somebody.heard == 1


async def test_a_question_that_nobody_answers_ends_in_time(session: NatsSession) -> None:
    somebody = Forgetful(session)
    somebody.heard = 3
    await session.client.subscribe("question", cb=somebody.hear)
    with pytest.raises(LogUnavailableError):
        await session.request("question", b"", within=0.3, again=0.05)
    assert somebody.heard > 4


async def test_a_silent_server_is_left_whatever_its_tls_still_waits_for(tmp_path: Path) -> None:
    """A connection over TLS takes up to 30 s to close, if nobody is at its other end; nothing waits for that."""
    secrets = {one["metadata"]["name"]: one["stringData"] for one in log_secrets(chosen("ha", {}))}
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (tmp_path / name).write_text(secrets["meshlog-nats-server"][name])
    server = NatsServer(tmp_path, NatsConfig(port=free_port(), store=str(tmp_path / "data"), tls=str(tmp_path)))
    server.start()
    tls = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    connection = NatsConnection(LogAccess(servers=(f"tls://localhost:{server.config.port}",), tls=tls))
    connection.open()
    try:
        session = await connection.session(within=5)
        server.freeze()
        await eventually(session.lost.done, within=12, what="the silent server is left")
        with pytest.raises(LogUnavailableError):
            await session.request("anything", b"", within=20)
        server.thaw()
        assert await connection.session(within=12) is not session
    finally:
        server.thaw()
        await connection.close()
        server.kill()
