"""Each service may write its own subjects only, and is not stopped from its work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.errors import Error as NatsError

from cli.__main__ import main
from cli.history.log_source import opened
from cli.history.pin import pin_to
from cli.history.timeline import Timeline
from cli.state.mesh_status import pinned
from deploy.nats import PEOPLE, NatsConfig, service_users
from shared.eventlog.jetstream.nats_connection import api_prefix
from shared.eventlog.jetstream.stream_api import stream_config
from shared.eventlog.protocol import EMPTY, Draft, LogUnavailableError
from shared.records.certificate_records import SigningAnswer, SigningRequest
from shared.records.certificate_records import encode as encode_message
from shared.records.events import encode
from shared.records.pins import PIN_KIND, PIN_NAME
from shared.records.subjects import Streams
from shared.service.settings import CommonSettings
from shared.streams.jetstream import JetStreamLogs
from shared.streams.specs import specs
from tests.attacks import log as attacks
from tests.chained import write_chained
from tests.nats_server import NatsServer
from tests.ports import free_port
from tests.unit.compiler import objects
from tests.waiting import eventually

pytestmark = pytest.mark.nats

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope("c1")
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
    settings = CommonSettings(
        nats_url=server.url, nats_user=service, nats_password_file=str(password), nats_accounts=True
    )
    logs = JetStreamLogs.from_settings(settings, name=service)
    try:
        yield logs
    finally:
        await logs.close()


async def test_every_service_can_do_its_work(guarded: NatsServer, tmp_path: Path) -> None:
    scope = STREAMS.cluster_scope("c1")
    async with contextlib.AsyncExitStack() as stack:
        on = {name: await stack.enter_async_context(of(name, guarded, tmp_path / "password")) for name in SERVICES}
        await on["ca"].ensure()
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
    async with of("compiler", guarded, tmp_path / "password") as logs:
        await logs.ensure()
    monkeypatch.setattr("shared.eventlog.jetstream.stream_api.WITHIN", 0.3)
    monkeypatch.setattr("shared.eventlog.jetstream.event_log.WITHIN", 0.3)
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
    monkeypatch.setenv("MESHLOG_NATS_ACCOUNTS", "true")
    async with of("ingestor", guarded, tmp_path / "password") as logs:
        await logs.ensure()
        events = await logs.open(STREAMS.events)
        scope = STREAMS.cluster_scope("cluster")
        drafts = [Draft(event.subject(STREAMS), encode(event)) for event in objects.bookstore()]
        await events.append(drafts, scope=scope, after=EMPTY, epoch="e1")
    monkeypatch.setenv("MESHLOG_NATS_USER", "reader")
    assert await asyncio.to_thread(main, ["status", "--log", guarded.url]) == 1
    told = capsys.readouterr().out
    assert "no compiler leads" in told
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
        monkeypatch.setattr("shared.eventlog.jetstream.stream_api.WITHIN", 0.3)
        monkeypatch.setattr("shared.eventlog.jetstream.event_log.WITHIN", 0.3)
        with pytest.raises(LogUnavailableError):
            await pin_to(timeline, len(drafts), "not mine to do")
        assert not await pinned(source)
    monkeypatch.undo()
    monkeypatch.setenv("MESHLOG_NATS_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("MESHLOG_CLUSTER", "cluster")
    monkeypatch.setenv("MESHLOG_NATS_ACCOUNTS", "true")
    monkeypatch.setenv("MESHLOG_NATS_USER", "operator")
    async with opened(guarded.url) as source:
        sequence, _ = await pin_to(Timeline(source), len(drafts), "mine to do")
        assert sequence == len(drafts) + 1
        assert "mine to do" in await pinned(source)
        assert source.pins is not None
        assert await source.pins.last(STREAMS.pin_subject("cluster")) is not None
        assert not capsys.readouterr().err
        assert source.writable is not None
        monkeypatch.setattr("shared.eventlog.jetstream.stream_api.WITHIN", 0.3)
        monkeypatch.setattr("shared.eventlog.jetstream.event_log.WITHIN", 0.3)
        forged = Draft(STREAMS.event_subject("cluster", "TrafficTarget", "shop", "all"), b"{}")
        with pytest.raises(LogUnavailableError):
            await source.writable.append([forged], scope=source.scope, after=await source.writable.tip(source.scope))


def a_subject_of_each(streams: Streams) -> dict[str, str]:
    """A subject under which each stream would store what arrives."""
    return {
        streams.events: streams.event_subject("c1", "TrafficTarget", "shop", "all"),
        streams.snapshots: streams.snapshot_subject,
        streams.keyframes: streams.keyframe_subject,
        streams.csrs: streams.csr_subject("edge"),
        streams.certs: streams.bundle_subject("cluster.local"),
        streams.status: streams.status_subject("c1", "shop", "p"),
        streams.pins: streams.pin_subject("c1"),
        streams.leases: streams.lease_subject("compiler"),
    }


WRITES = {
    "ingestor": {STREAMS.events, STREAMS.leases},
    "compiler": {STREAMS.snapshots, STREAMS.keyframes, STREAMS.leases},
    "xds-edge": {STREAMS.csrs, STREAMS.status},
    "ca": {STREAMS.certs},
    "injector": {STREAMS.csrs},
    "operator": {STREAMS.pins},
    "reader": set[str](),
}
"""The streams of which a user may write the subject above."""


async def state_of_each(server: NatsServer, *names: str) -> dict[str, Any]:
    """What each stream (none: of all) holds and how it is configured."""
    async with attacks.as_user(server.url, "reader", "s3cret-word") as looking:
        found: dict[str, Any] = {}
        for stream in names or a_subject_of_each(STREAMS):
            info = await attacks.ask(looking, f"{api_prefix(stream)}.STREAM.INFO.{stream}")
            assert info is not None
            state = {key: info["state"][key] for key in ("first_seq", "last_seq", "messages")}
            found[stream] = (state, info["config"])
        return found


@pytest.mark.parametrize("user", [*SERVICES, *PEOPLE])
async def test_no_user_has_the_server_write_for_it(guarded: NatsServer, tmp_path: Path, user: str) -> None:
    """By no reply subject of any request, no delivery subject, no acknowledgement and no flow control."""
    subjects = a_subject_of_each(STREAMS)
    async with of("ca", guarded, tmp_path / "password") as logs, of("ingestor", guarded, tmp_path / "password") as own:
        await logs.ensure()
        await write_chained(await own.open(STREAMS.events), Draft(subjects[STREAMS.events], b"{}"), scope=SCOPE)
    before = await state_of_each(guarded)
    targets = [*subjects.values(), STREAMS.pin_subject("c2"), f"{api_prefix('')}.STREAM.PURGE.{STREAMS.events}"]
    async with attacks.as_user(guarded.url, user, "s3cret-word") as stranger:
        for stream in subjects:
            for prefix in (api_prefix(stream), api_prefix("")):
                await attacks.every_verb_into(stranger, stream, targets, prefix=prefix)
            await attacks.acknowledge_into(stranger, stream, targets)
            await stranger.flush()
        delivering = [
            attacks.deliver_into(stranger, stream, target, name=f"evil-{number}", prefix=api_prefix(stream), within=0.5)
            for stream in subjects
            for number, target in enumerate(targets)
        ]
        await asyncio.gather(*delivering)
        await attacks.settle(stranger)
    after = await state_of_each(guarded)
    # What a user may write, it may write by a reply subject too.
    assert {name: held for name, held in after.items() if name not in WRITES[user]} == {
        name: held for name, held in before.items() if name not in WRITES[user]
    }


@pytest.mark.parametrize("user", [*SERVICES, *PEOPLE])
async def test_each_user_writes_what_is_its_own_and_nothing_else(
    guarded: NatsServer, tmp_path: Path, user: str
) -> None:
    async with of("ca", guarded, tmp_path / "password") as logs:
        await logs.ensure()
    written: set[str] = set()
    async with attacks.as_user(guarded.url, user, "s3cret-word") as client:
        pin = STREAMS.event_subject("c1", PIN_KIND, "", PIN_NAME)
        subjects = a_subject_of_each(STREAMS)
        took = await asyncio.gather(*(attacks.write(client, subject, b"{}") for subject in (*subjects.values(), pin)))
        written |= {stream for stream, stored in zip(subjects, took, strict=False) if stored}
        assert took[-1] == (user in {"ingestor", "operator"})
    assert written == WRITES[user]
    held = await state_of_each(guarded)
    assert {name for name, (state, _) in held.items() if state["messages"]} - {STREAMS.events} == written - {
        STREAMS.events
    }


@pytest.mark.parametrize("user", [*SERVICES, *PEOPLE])
async def test_only_its_owner_changes_or_empties_a_stream(guarded: NatsServer, tmp_path: Path, user: str) -> None:
    async with of("ca", guarded, tmp_path / "password") as logs:
        await logs.ensure()
    held = await state_of_each(guarded)
    verbs = ("STREAM.DELETE", "STREAM.MSG.DELETE", "STREAM.PURGE", "STREAM.RESTORE", "CONSUMER.DELETE")
    async with attacks.as_user(guarded.url, user, "s3cret-word") as client:

        async def may(request: str, payload: bytes) -> bool:
            answer = await attacks.ask(client, request, payload, within=0.5)
            return answer is not None and "error" not in answer

        async def judge(stream: str, config: dict[str, Any]) -> None:
            spec, own = specs(STREAMS)[stream], api_prefix(stream)
            changed = msgspec.json.encode({**config, "description": "changed"})
            asked = {f"{prefix}.{verb}.{stream}": b'{"seq":1}' for prefix in (own, api_prefix("")) for verb in verbs}
            asked[f"{own}.STREAM.UPDATE.{stream}"] = changed
            granted = await asyncio.gather(*(may(request, payload) for request, payload in asked.items()))
            expected = {f"{own}.STREAM.UPDATE.{stream}"} if user == spec.owner else set[str]()
            expected |= {f"{own}.STREAM.PURGE.{stream}"} if user == spec.owner and spec.trimmed else set()
            assert {request for request, yes in zip(asked, granted, strict=True) if yes} == expected

        await asyncio.gather(*(judge(stream, config) for stream, (_, config) in held.items()))


async def test_nobody_gets_in_without_a_password(guarded: NatsServer) -> None:
    with pytest.raises(NatsError):
        async with attacks.as_user(guarded.url):
            pass
    for account in (STREAMS.events, "$SYS", "$G"):
        with pytest.raises(NatsError):
            async with attacks.as_user(guarded.url, account, "s3cret-word"):
                pass


async def test_a_stream_of_an_older_build_is_brought_up_to_date_by_its_owner(
    guarded: NatsServer, tmp_path: Path
) -> None:
    """Whoever else comes takes it as it is, and nobody waits for a right that it lacks."""
    spec = specs(STREAMS)[STREAMS.events]
    older = {**stream_config(spec), "duplicate_window": 60_000_000_000, "allow_atomic": False}
    async with attacks.as_user(guarded.url, "ingestor", "s3cret-word") as client:
        create = f"{api_prefix(spec.name)}.STREAM.CREATE.{spec.name}"
        made = await attacks.ask(client, create, msgspec.json.encode(older))
        assert made is not None
        assert "error" not in made
    for service in ("compiler", "xds-edge", "ca", "injector"):
        async with of(service, guarded, tmp_path / "password") as logs, asyncio.timeout(5):
            await logs.open(STREAMS.events)
    assert not (await state_of_each(guarded, STREAMS.events))[STREAMS.events][1].get("allow_atomic")
    async with of("ingestor", guarded, tmp_path / "password") as logs, asyncio.timeout(5):
        log = await logs.open(STREAMS.events)
        drafts = [Draft(STREAMS.event_subject("c1", "Pod", "shop", name), b"{}") for name in "ab"]
        await log.append(drafts, scope=SCOPE, after=EMPTY, epoch="e1")


async def test_who_creates_no_stream_waits_for_it(guarded: NatsServer, tmp_path: Path) -> None:
    async with of("xds-edge", guarded, tmp_path / "password") as edge, of("ca", guarded, tmp_path / "password") as ca:
        opening = asyncio.create_task(edge.open(STREAMS.status))
        await ca.open(STREAMS.csrs)
        assert not opening.done()
        await ca.ensure(STREAMS.status)
        async with asyncio.timeout(5):
            status = await opening
        assert await status.bounds() == (1, 0)


async def test_a_wrong_password_is_told_without_telling_it(
    guarded: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="shared.eventlog")
    (tmp_path / "wrong").write_text("another-word")
    async with of("ca", guarded, tmp_path / "wrong") as logs:
        with pytest.raises(LogUnavailableError):
            await logs._connection.session(within=0.2)  # pyright: ignore[reportPrivateUsage]
        await eventually(lambda: "Authorization" in caplog.text, within=20, what="the refusal is told")
    assert "word" not in caplog.text
