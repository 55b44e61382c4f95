"""Each service may write its own subjects only, and is not stopped from its work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from cli.__main__ import main
from cli.history.pinning import pin_to
from cli.history.source import opened
from cli.history.standing import pinned
from cli.history.timeline import Timeline
from deploy.nats import PEOPLE, NatsConfig, service_users
from shared.certificates import SigningAnswer, SigningRequest
from shared.certificates import encode as encode_message
from shared.eventlog.jetstream import JetStreamLogs
from shared.eventlog.protocol import EMPTY, Draft, LogUnavailableError
from shared.events import encode
from shared.settings import CommonSettings
from shared.subjects import Streams
from tests.nats_server import NatsServer, free_port
from tests.unit.compiler import objects
from tests.waiting import eventually

pytestmark = pytest.mark.nats

STREAMS = Streams()
SERVICES = ("ingestor", "compiler", "xds-edge", "ca", "injector")


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NatsServer]:
    """A server with one user a service, whose passwords it has from its environment."""
    monkeypatch.setenv("MESHLOG_TEST_PASSWORD", "s3cret-word")
    users = service_users(STREAMS, dict.fromkeys((*SERVICES, *PEOPLE), "$MESHLOG_TEST_PASSWORD"))
    server = NatsServer(tmp_path, NatsConfig(port=free_port(), store=str(tmp_path / "data"), users=users))
    server.start()
    (tmp_path / "password").write_text("s3cret-word\n")
    yield server
    server.kill()


@contextlib.asynccontextmanager
async def of(service: str, server: NatsServer, password: Path) -> AsyncGenerator[JetStreamLogs, None]:
    settings = CommonSettings(nats_url=server.url, nats_user=service, nats_password_file=str(password))
    logs = JetStreamLogs.from_settings(settings, name=service)
    try:
        yield logs
    finally:
        await logs.close()


async def test_every_service_can_do_its_work(guarded: NatsServer, tmp_path: Path) -> None:
    scope = STREAMS.cluster_scope("c1")
    async with contextlib.AsyncExitStack() as stack:
        on = {name: await stack.enter_async_context(of(name, guarded, tmp_path / "password")) for name in SERVICES}
        events = await on["ingestor"].open(STREAMS.events)
        drafts = [Draft(STREAMS.event_subject("c1", "Pod", "shop", name), b"{}") for name in "ab"]
        tip = await events.append(drafts, scope=scope, after=await events.tip(scope), epoch="e1")
        await events.trim(before=2)
        for reader in SERVICES[1:]:
            log = await on[reader].open(STREAMS.events)
            assert await log.tip(scope) == tip
            assert [record.sequence async for record in log.read(subjects=scope)] == [2]
        commits = await on["compiler"].open(STREAMS.snapshots)
        await commits.append(
            [Draft(STREAMS.snapshot_subject, b"")], scope=STREAMS.snapshot_subject, after=EMPTY, epoch="e1"
        )
        for requester in ("xds-edge", "injector"):
            queue = await on[requester].open(STREAMS.csrs)
            asked = SigningRequest("1", requester, b"csr", "key", b"token", "c1", "spiffe://cluster.local/ns/a/sa/b")
            await queue.publish(Draft(STREAMS.csr_subject(requester), encode_message(asked)))
        taken = 0
        async for job in (await on["ca"].open(STREAMS.csrs)).take("ca"):
            await job.done()
            taken += 1
            if taken == 2:
                break
        certs = await on["ca"].open(STREAMS.certs)
        answer = encode_message(SigningAnswer(id="1"))
        await certs.publish(Draft(STREAMS.issued_subject("xds-edge", "1"), answer))
        mine = (await on["xds-edge"].open(STREAMS.certs)).follow(subjects=STREAMS.issued_scope("xds-edge"))
        async for record in mine:
            assert record.payload == answer
            break


async def test_a_service_cannot_write_what_is_anothers(
    guarded: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.eventlog.jetstream_api.WITHIN", 0.3)
    monkeypatch.setattr("shared.eventlog.jetstream.WITHIN", 0.3)
    async with of("xds-edge", guarded, tmp_path / "password") as logs:
        events = await logs.open(STREAMS.events)
        forged = Draft(STREAMS.event_subject("c1", "TrafficTarget", "shop", "all"), b"{}")
        with pytest.raises(LogUnavailableError):
            await events.append([forged], scope=STREAMS.cluster_scope("c1"), after=EMPTY, epoch="e1")
        assert await events.bounds() == (1, 0)


async def test_an_operator_may_pin_and_a_reader_may_only_look(
    guarded: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """History reads with the rights of a reader; a rollback needs those of an operator, who may write nothing else."""
    monkeypatch.setenv("MESHLOG_NATS_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("MESHLOG_CLUSTER", "cluster")
    async with of("ingestor", guarded, tmp_path / "password") as logs:
        await logs.ensure()
        events = await logs.open(STREAMS.events)
        scope = STREAMS.cluster_scope("cluster")
        drafts = [Draft(event.subject(STREAMS), encode(event)) for event in objects.bookstore()]
        await events.append(drafts, scope=scope, after=EMPTY, epoch="e1")
    monkeypatch.setenv("MESHLOG_NATS_USER", "reader")
    assert await asyncio.to_thread(main, ["status", "--log", guarded.url]) == 0
    told = capsys.readouterr().out
    assert f"compiler: {len(drafts)} events after version 0 are not published" in told
    assert "ca: no signing request waits" in told
    async with opened(guarded.url) as source:
        timeline = Timeline(source)
        assert len(await timeline.state(len(drafts))) == len(drafts)
        assert len(await timeline.state(3)) == 3
        assert [item.sequence async for item in timeline.history(after=len(drafts) - 2)] == [
            len(drafts) - 1,
            len(drafts),
        ]
        assert not await pinned(source)
        monkeypatch.setattr("shared.eventlog.jetstream_api.WITHIN", 0.3)
        monkeypatch.setattr("shared.eventlog.jetstream.WITHIN", 0.3)
        with pytest.raises(LogUnavailableError):
            await pin_to(timeline, len(drafts), "not mine to do")
        assert not await pinned(source)
    monkeypatch.undo()
    monkeypatch.setenv("MESHLOG_NATS_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("MESHLOG_CLUSTER", "cluster")
    monkeypatch.setenv("MESHLOG_NATS_USER", "operator")
    async with opened(guarded.url) as source:
        sequence, _ = await pin_to(Timeline(source), len(drafts), "mine to do")
        assert sequence == len(drafts) + 1
        assert "mine to do" in await pinned(source)
        assert source.pins is not None
        assert await source.pins.last(STREAMS.pin_subject("cluster")) is not None
        assert not capsys.readouterr().err
        assert source.writable is not None
        monkeypatch.setattr("shared.eventlog.jetstream_api.WITHIN", 0.3)
        monkeypatch.setattr("shared.eventlog.jetstream.WITHIN", 0.3)
        forged = Draft(STREAMS.event_subject("cluster", "TrafficTarget", "shop", "all"), b"{}")
        with pytest.raises(LogUnavailableError):
            await source.writable.append([forged], scope=source.scope, after=await source.writable.tip(source.scope))


async def test_a_wrong_password_is_told_without_telling_it(
    guarded: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="meshlog.eventlog")
    (tmp_path / "wrong").write_text("another-word")
    async with of("ca", guarded, tmp_path / "wrong") as logs:
        with pytest.raises(LogUnavailableError):
            await logs._connection.line(within=0.2)  # pyright: ignore[reportPrivateUsage]
        await eventually(lambda: "Authorization" in caplog.text, within=20, what="the refusal is told")
    assert "word" not in caplog.text
