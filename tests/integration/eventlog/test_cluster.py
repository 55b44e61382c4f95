"""Three servers of the log: what goes on without some of them, and what comes back by itself."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import aiohttp
import pytest

from deploy.nats import service_users
from shared.eventlog.jetstream.nats_connection import LogAccess
from shared.eventlog.jetstream.stream_api import call
from shared.eventlog.protocol import Draft, LogUnavailableError, Record
from shared.records.certificate_records import SigningRequest, encode
from shared.records.subjects import Streams
from shared.service.settings import CommonSettings
from shared.streams.jetstream import JetStreamLogs
from shared.streams.specs import StreamSettings
from tests.integration.eventlog.test_outages import background, collect, write, write_once
from tests.nats_server import NatsServer, running_cluster
from tests.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.long, pytest.mark.timeout(120)]

STREAMS = Streams()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[NatsServer]]:
    """Of this test alone."""
    with running_cluster(tmp_path) as servers:
        yield servers


@contextlib.asynccontextmanager
async def connected(*servers: NatsServer) -> AsyncGenerator[JetStreamLogs]:
    access = LogAccess(servers=tuple(server.url for server in servers))
    logs = JetStreamLogs.connect(access, STREAMS, StreamSettings(replicas=3))
    try:
        yield logs
    finally:
        await logs.close()


async def stream_leader(logs: JetStreamLogs, stream: str) -> str:
    """Name of the server that leads it, as soon as one does."""

    async def ask() -> str:
        session = await logs._connection.session(within=5)  # pyright: ignore[reportPrivateUsage]
        with contextlib.suppress(LogUnavailableError):
            return str((await call(session, stream, f"STREAM.INFO.{stream}"))["cluster"].get("leader", ""))
        return ""

    return await eventually(ask, within=25, what=f"{stream} has a leader")


async def meta_leader(server: NatsServer) -> str:
    """Name of the server that leads the meta layer, as this one knows it."""
    url = f"http://{server.config.host}:{server.config.monitoring}/jsz"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return str((await answer.json())["meta_cluster"].get("leader", ""))


async def test_when_all_were_killed_two_of_three_are_enough_for_every_stream(cluster: list[NatsServer]) -> None:
    """The leases, too: a stream in memory that was lost everywhere elects nobody before all three are back."""
    async with connected(*cluster) as logs:
        await logs.ensure()
    for server in cluster:
        server.kill()
    for server in cluster[:2]:
        server.start()
    async with connected(*cluster[:2]) as logs:
        for name in (STREAMS.events, STREAMS.snapshots, STREAMS.leases):
            assert await stream_leader(logs, name)


async def test_without_a_meta_leader_what_runs_goes_on_and_what_begins_waits(cluster: list[NatsServer]) -> None:
    """The server that leads the meta layer is killed, and another leads the events.

    Consumers are wherever they are: those of the killed server begin anew, as soon as there is a meta leader.
    """
    async with connected(*cluster) as first:
        await first.ensure(STREAMS.events)
    leading = await meta_leader(cluster[0])
    doomed = next(server for server in cluster if server.config.name == leading)
    left = [server for server in cluster if server is not doomed]
    async with connected(*left) as logs, contextlib.AsyncExitStack() as running:
        events = logs.existing(STREAMS.events)
        while await stream_leader(logs, STREAMS.events) == doomed.config.name:
            session = await logs._connection.session(within=5)  # pyright: ignore[reportPrivateUsage]
            await call(session, STREAMS.events, f"STREAM.LEADER.STEPDOWN.{STREAMS.events}", within=5)
        await write(events, "a")
        followers: list[list[Record]] = [[] for _ in range(8)]
        for followed in followers:
            await running.enter_async_context(background(collect(events, followed)))
        await eventually(lambda: all(followers), within=10, what="all follow")
        doomed.kill()
        await write_once(events, "b")
        late: list[Record] = []
        await running.enter_async_context(background(collect(events, late)))
        await eventually(lambda: any(len(one) == 2 for one in followers), within=3, what="the news goes on")
        assert await meta_leader(left[0]) in {"", doomed.config.name}
        followers.append(late)
        await eventually(lambda: all(len(one) == 2 for one in followers), within=30, what="all have the news")
    for followed in followers:
        assert [record.payload for record in followed] == [b"a", b"b"]


async def test_with_an_account_for_each_stream_and_user_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server is lost, and writers, followers and takers go on across accounts."""
    monkeypatch.setenv("MESHLOG_TEST_PASSWORD", "s3cret-word")
    (tmp_path / "password").write_text("s3cret-word")
    users = service_users(STREAMS, dict.fromkeys(("ingestor", "compiler", "ca", "injector"), "$MESHLOG_TEST_PASSWORD"))
    with running_cluster(tmp_path, users) as servers:

        def of(user: str) -> JetStreamLogs:
            settings = CommonSettings(
                nats_url=",".join(server.url for server in servers),
                nats_user=user,
                nats_password_file=str(tmp_path / "password"),
                nats_accounts=True,
                replicas=3,
            )
            return JetStreamLogs.from_settings(settings, name=user)

        everybody = {user.name: of(user.name) for user in users}
        try:
            await everybody["ca"].ensure()
            written = await everybody["ingestor"].open(STREAMS.events)
            followed: list[Record] = []
            done: list[bytes] = []

            async def work() -> None:
                async for job in (await everybody["ca"].open(STREAMS.csrs)).take("ca"):
                    done.append(job.record.payload)
                    await job.done()

            read = await everybody["compiler"].open(STREAMS.events)
            async with background(collect(read, followed)), background(work()):
                await write(written, "a", "b")
                await eventually(lambda: len(followed) == 2, within=10, what="the first records are followed")
                servers[1].kill()
                for name in "cd":
                    await write_once(written, name)
                await eventually(lambda: len(followed) == 4, within=30, what="the rest is followed")
                queue = await everybody["injector"].open(STREAMS.csrs)
                request = SigningRequest("1", "edge", b"csr", "key", b"token", "c1", "spiffe://cluster.local/x")
                await queue.publish(Draft(STREAMS.csr_subject("edge"), encode(request)))
                await eventually(lambda: len(done) == 1, within=30, what="the job is taken")
        finally:
            for logs in everybody.values():
                await logs.close()
