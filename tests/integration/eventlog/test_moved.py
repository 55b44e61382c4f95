"""The log of an older build, which knew no accounts, is found again where each stream has one of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.embedded.lifecycle import move_into_accounts
from deploy.nats import NatsConfig, service_users
from shared.eventlog.protocol import EMPTY, Draft
from shared.records.subjects import Streams
from shared.service.settings import CommonSettings
from shared.streams.jetstream import JetStreamLogs
from tests.chained import write_chained
from tests.nats_server import NatsServer, connected
from tests.ports import free_port

pytestmark = pytest.mark.nats

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope("c1")


async def test_streams_keep_all_that_they_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, tip = tmp_path / "data", EMPTY
    server = NatsServer(tmp_path, NatsConfig(port=free_port(), store=str(store)))
    server.start()
    try:
        async with connected(server) as logs:
            await logs.ensure()
            log = await logs.open(STREAMS.events)
            for name in "abcd":
                draft = Draft(STREAMS.event_subject("c1", "Pod", "shop", name), b"{}")
                tip = await write_chained(log, draft, scope=SCOPE)
            await log.trim(before=3)
        server.stop()
        for _ in range(2):  # a second time there is nothing to do
            move_into_accounts(store)
        monkeypatch.setenv("MESHLOG_TEST_PASSWORD", "s3cret-word")
        (tmp_path / "password").write_text("s3cret-word")
        users = service_users(STREAMS, {"ingestor": "$MESHLOG_TEST_PASSWORD"})
        server.config = NatsConfig(port=server.config.port, store=str(store), users=users)
        server.start()
        settings = CommonSettings(
            nats_url=server.url,
            nats_user="ingestor",
            nats_password_file=str(tmp_path / "password"),
            nats_accounts=True,
        )
        logs = JetStreamLogs.from_settings(settings, name="test")
        try:
            log = await logs.open(STREAMS.events)
            assert await log.bounds() == (3, 4)
            assert await log.tip(SCOPE) == tip
            draft = Draft(STREAMS.event_subject("c1", "Pod", "shop", "e"), b"{}")
            assert (await log.append([draft], scope=SCOPE, after=tip)).sequence == 5
        finally:
            await logs.close()
    finally:
        server.kill()


def test_where_no_log_was_nothing_is_made(tmp_path: Path) -> None:
    move_into_accounts(tmp_path / "nats")
    assert not (tmp_path / "nats").exists()
