"""A server that writes into the log by itself stops nobody: the attacks of a user without rights, on a real server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from services.compiler.core.compiler import Compiler
from services.compiler.log.publisher import Publisher
from services.compiler.log.snapshot_store import SnapshotStore
from services.compiler.mesh_state import MeshSettings
from services.ingestor.log.chain_position import ChainPosition
from shared.eventlog.protocol import Draft
from shared.records import chunked_payload, events
from shared.records.snapshot import decode_commit
from shared.records.subjects import Streams
from shared.service.lease import Lease
from shared.streams.jetstream import JetStreamLogs
from tests.attacks import log as attacks
from tests.chained import write_chained
from tests.nats_server import connected, running_nats
from tests.unit.compiler import objects
from tests.waiting import eventually

pytestmark = pytest.mark.nats

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope(objects.CLUSTER)
LEASE = STREAMS.lease_subject("compiler")


@contextlib.asynccontextmanager
async def compiling(logs: JetStreamLogs) -> AsyncGenerator[tuple[Publisher, Lease]]:
    """A compiler with its lease."""
    lease = Lease(await logs.open(STREAMS.leases), subject=LEASE, instance="compiler-0")
    publication = Publisher(
        await logs.open(STREAMS.events),
        SnapshotStore(await logs.open(STREAMS.snapshots), await logs.open(STREAMS.keyframes), STREAMS),
        scope=SCOPE,
        compiler=lambda: Compiler(MeshSettings()),
        ready=lambda _name, _ready, _why: None,
        leads=lambda: lease.held,
        wants=lambda wants: lease.campaign() if wants else lease.stand_aside(),
    )
    lease.changed = publication.wake
    tasks = [asyncio.create_task(lease.run()), asyncio.create_task(publication.run())]
    try:
        yield publication, lease
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_the_server_writes_of_itself_stops_nobody(tmp_path: Path) -> None:
    """Answers under subjects of every stream, and consumers that deliver into the streams of commits and keyframes."""
    mesh = objects.bookstore()
    with running_nats(tmp_path) as server:
        async with connected(server) as logs, attacks.as_user(server.url) as stranger:
            await logs.ensure()
            log = await logs.open(STREAMS.events)
            written = [Draft(one.subject(STREAMS), events.encode(one)) for one in mesh]
            tip = await write_chained(log, *written, scope=SCOPE)
            async with compiling(logs) as (publication, lease):
                published = publication.snapshots
                await eventually(
                    lambda: published.published.version == tip.sequence, within=10, what="the mesh is published"
                )
                for number in range(3):
                    for subject in (
                        STREAMS.event_subject(objects.CLUSTER, "Pod", "x", "y"),
                        mesh[-1].subject(STREAMS),
                        STREAMS.snapshot_subject,
                        STREAMS.keyframe_subject,
                        STREAMS.bundle_subject("cluster.local"),
                        STREAMS.pin_subject(objects.CLUSTER),
                        STREAMS.status_subject("c", "n", "p"),
                        STREAMS.csr_subject("edge"),
                        LEASE,
                    ):
                        await attacks.answer_into(stranger, f"$JS.API.STREAM.INFO.{STREAMS.events}", subject)
                    for stream, target in (
                        (STREAMS.events, STREAMS.snapshot_subject),
                        (STREAMS.events, STREAMS.keyframe_subject),
                        (STREAMS.leases, STREAMS.snapshot_subject),
                    ):
                        await attacks.deliver_into(stranger, stream, target, name=f"evil{number}-{target[-3:]}")
                    await attacks.settle(stranger)
                    tip = await write_chained(log, _next(number), scope=SCOPE)
                    await eventually(
                        lambda version=tip.sequence: published.published.version == version,
                        within=10,
                        what="the next change is published",
                    )
                    await eventually(lambda: lease.held, within=10, what="it leads")
                assert logs.foreign.counts[STREAMS.events] >= 6
                assert logs.foreign.counts[STREAMS.snapshots] >= 3
            position = ChainPosition(log, SCOPE, retry=0.1)
            await position.recover()
            assert not position.broken
            assert position.tip == tip
            again = SnapshotStore(await logs.open(STREAMS.snapshots), await logs.open(STREAMS.keyframes), STREAMS)
            await again.load()
            assert again.published.version == tip.sequence
            keyframe = await chunked_payload.newest(await logs.open(STREAMS.keyframes), STREAMS.keyframe_subject)
            assert keyframe is not None
            assert decode_commit(keyframe[1]).views


def _next(number: int) -> Draft:
    event = objects.namespace(f"next-{number}")
    return Draft(event.subject(STREAMS), events.encode(event))
