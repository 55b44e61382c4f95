"""What no writer of the mesh wrote begins no epoch, and keeps the ingestor from nothing."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest

from services.ingestor.core.object_index import ObjectIndex
from services.ingestor.log.chain_position import ChainPosition
from services.ingestor.log.compaction import Compactor
from services.ingestor.status.ack_progress import AckProgress
from services.ingestor.status.condition_reporter import ConditionReporter
from services.ingestor.status.log_follower import StatusLogFollower
from services.ingestor.status.reports import ConditionReport, ObjectEvent, Outcome
from shared.eventlog.chain import ChainVerifier
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import GENESIS, HEADER_CHAIN, HEADER_EPOCH, HEADER_KEPT, Draft
from shared.records import chunked_payload, events
from shared.records.events import Event
from shared.records.pins import PIN_KIND, PIN_NAME, Pin
from shared.records.proxy_status import ProxyStatus, encode_status
from shared.records.snapshot import Commit, Proxy, encode_commit
from shared.streams.memory import MemoryLogs
from tests.chained import write_chained
from tests.unit.ca.running import tasks
from tests.unit.ingestor.log.test_event_writer import agrees
from tests.unit.ingestor.rig import PATIENCE, STREAMS, Rig
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually

SCOPE = STREAMS.cluster_scope("c1")
PIN_SUBJECT = STREAMS.event_subject("c1", PIN_KIND, "", PIN_NAME)
ANSWER = b'{"type":"io.nats.jetstream.api.v1.stream_info_response","total":0}'
LOOKING = msgspec.structs.replace(PATIENCE, glance=0.02, scrub=0.05)


def events_log() -> MemoryLog:
    return MemoryLogs(STREAMS).stream(STREAMS.events)


def pin(version: int) -> Event:
    body = events.encode_object(Pin(version=version))
    return Event(1, "c1", PIN_KIND, "", PIN_NAME, f"pin-{version}", "1", "applied", "meshlog.io/1", body)


async def intruded(log: MemoryLog, kind: str) -> None:
    """One record of each kind that no writer of the mesh wrote."""
    match kind:
        case "answer":
            log.intrude(STREAMS.event_subject("c1", "Pod", "x", "y"), ANSWER)
        case "under an object":
            log.intrude(STREAMS.event_subject("c1", "Pod", "shop", "a"), b"")
        case "pin without place":
            log.intrude(PIN_SUBJECT, events.encode(pin(1)), {HEADER_EPOCH: "e9", HEADER_CHAIN: "a" * 32})
        case "pin that begins an epoch":
            log.intrude(PIN_SUBJECT, events.encode(pin(1)), {HEADER_EPOCH: "e9", HEADER_CHAIN: GENESIS})
        case "another thing as a pin":
            target = msgspec.structs.replace(pin(1), kind="TrafficTarget", namespace="shop", name="all")
            await write_chained(log, Draft(PIN_SUBJECT, events.encode(target)), scope=SCOPE)
        case _:
            await write_chained(log, Draft(PIN_SUBJECT, b"no event"), scope=SCOPE)


@pytest.mark.parametrize(
    "kind",
    [
        "answer",
        "under an object",
        "pin without place",
        "pin that begins an epoch",
        "another thing as a pin",
        "nonsense as a pin",
    ],
)
async def test_it_begins_no_epoch_and_stops_no_writer(kind: str) -> None:
    server, log = ScriptedServer(), events_log()
    server.apply_pod("a")
    async with Rig(server, log, patience=LOOKING) as rig:
        await agrees(log, server)
        for name in "bc":
            await intruded(log, kind)
            server.apply_pod(name)
            await eventually(lambda name=name: _has(log, name), within=5, what=f"{name} is written")
        looks = asyncio.get_running_loop().time() + 0.2
        await eventually(lambda: asyncio.get_running_loop().time() > looks, within=5, what="it has looked again")
        assert rig.writer.counts.epochs == 1
        assert not rig.writer.trouble
    verifier = ChainVerifier()
    async for record in log.read(subjects=SCOPE):
        verifier.fold(record)
    async with Rig(server, log, name="b", patience=LOOKING) as rig:
        await eventually(lambda: rig.writer.settled >= {"Pod"}, within=5, what="another ingestor reads it")
        assert rig.writer.counts.epochs == rig.writer.counts.written == 0


async def _has(log: MemoryLog, name: str) -> bool:
    return await log.last(STREAMS.event_subject("c1", "Pod", "shop", name)) is not None


async def test_the_newest_pin_is_kept_behind_what_stands_in_its_place() -> None:
    """Before a trim, living objects are appended again: the pin too, though a foreign record has its subject."""
    ticks = itertools.count(1)
    log = MemoryLogs(STREAMS, clock=lambda: next(ticks) * 1_000_000_000).stream(STREAMS.events)
    await write_chained(log, _pod("p"), scope=SCOPE, epoch="e1-m")
    await write_chained(log, Draft(PIN_SUBJECT, events.encode(pin(1))), scope=SCOPE)
    for number in range(12):
        await intruded(log, "another thing as a pin")
        await intruded(log, "pin without place")
        await write_chained(log, _pod(f"p{number}"), scope=SCOPE)
    position = ChainPosition(log, SCOPE, retry=0.01)
    await position.recover()
    assert not position.broken
    log.intrude(STREAMS.event_subject("c1", "Pod", "x", "y"), ANSWER)
    await Compactor(log, SCOPE, window=9.0, slack=4).run(position)
    assert (await log.bounds())[0] > 20
    found = await log.last(PIN_SUBJECT)
    assert found is not None
    assert found.payload == events.encode(pin(1))
    assert found.headers[HEADER_KEPT] == "2"
    verifier = ChainVerifier()
    async for record in log.read(subjects=SCOPE):
        verifier.fold(record)
    assert not verifier.headless
    assert verifier.checkpoint == position.tip


def _pod(name: str) -> Draft:
    event = Event(1, "c1", "Pod", "shop", name, "u", "1", "applied", object=msgspec.Raw(b"{}"))
    return Draft(event.subject(STREAMS), events.encode(event))


async def test_a_damaged_record_is_still_a_reason_for_an_epoch() -> None:
    server, log = ScriptedServer(), events_log()
    server.apply_pod("a")
    server.apply_pod("b")
    async with Rig(server, log, patience=LOOKING) as rig:
        await agrees(log, server)
        log.corrupt(log.sequences[-1], b"no event")
        await eventually(lambda: rig.writer.counts.epochs == 2, within=5, what="a new epoch begins")


async def test_reports_go_on_over_heartbeats_and_damaged_commits() -> None:
    logs = MemoryLogs(STREAMS)
    snapshots, statuses = logs.stream(STREAMS.snapshots), logs.stream(STREAMS.status)
    progress = AckProgress(cluster="c1", kinds=[])

    async def write(_report: ConditionReport | ObjectEvent) -> Outcome:
        return Outcome.WRITTEN

    reporter = ConditionReporter(
        progress,
        ObjectIndex(),
        write,
        write,
        cluster="c1",
        kinds=[],
        mesh_namespace="m",
        now=lambda: "",
        clock=lambda: 0.0,
    )
    hearing = StatusLogFollower(progress, reporter, STREAMS, outage=0.01)

    async def publish(version: int, parent: int) -> None:
        commit = Commit(format=1, version=version, parent=parent, epoch="e1", build="b")
        if version > 1:
            proxy = Proxy(cluster="c1", namespace="shop", pod="p", uid="u", service_account="s", workload_class="k")
            commit = msgspec.structs.replace(commit, proxies={"c1/shop/p": proxy})
        drafts = chunked_payload.split(encode_commit(commit), STREAMS.snapshot_subject, version=version)
        await write_chained(snapshots, *drafts)

    async with tasks(
        hearing.follow_commits(snapshots, logs.stream(STREAMS.keyframes)),
        hearing.follow_statuses(statuses),
    ):
        await publish(1, 0)
        snapshots.intrude(STREAMS.snapshot_subject)
        damaged = chunked_payload.split(b"damaged", STREAMS.snapshot_subject, version=2)
        await write_chained(snapshots, msgspec.structs.replace(damaged[0], payload=b"changed"))
        await publish(3, 1)
        await eventually(lambda: progress.version == 3, within=5, what="the commit behind it is taken")
        subject = STREAMS.status_subject("c1", "shop", "p")
        statuses.intrude(subject, ANSWER)
        status = ProxyStatus("c1", "shop", "p", "u", "s", "edge", connected=True, since=1)
        await statuses.publish(Draft(subject, encode_status(status)))
        statuses.intrude(subject, b"")
        await eventually(lambda: "c1/shop/p" in progress._statuses, within=5, what="the status is taken")  # pyright: ignore[reportPrivateUsage]


async def test_the_only_record_of_a_log_that_was_damaged_is_damage() -> None:
    """No record precedes or follows it: its own hash shows that it was changed."""
    log = events_log()
    await write_chained(log, _pod("a"), scope=SCOPE)
    log.corrupt(1, b"no event")
    position = ChainPosition(log, SCOPE, retry=0.01)
    await position.recover()
    assert position.broken
