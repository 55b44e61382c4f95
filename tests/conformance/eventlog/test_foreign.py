"""Records that no writer of a stream can have written: readers pass over them, and writers go on behind them."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest

from shared.eventlog.chain import ChainVerifier
from shared.eventlog.protocol import (
    EMPTY,
    GENESIS,
    HEADER_AFTER,
    HEADER_BATCH,
    HEADER_CHAIN,
    HEADER_EPOCH,
    ChainBrokenError,
    Checkpoint,
    Draft,
    EventLog,
    Logs,
    Record,
    StaleWriterError,
    chain_after,
)
from shared.records import certificate_records, chunked_payload, events
from shared.records.certificate_records import AuditNote, SigningAnswer, SigningRequest, TrustBundle
from shared.records.events import Event
from shared.records.pins import PIN_KIND, PIN_NAME, Pin, in_force_by
from shared.records.proxy_status import ProxyStatus, decode_status, encode_status
from shared.records.subjects import Streams
from shared.streams.jetstream import JetStreamLogs
from shared.streams.memory import MemoryLogs
from tests.chained import write_chained
from tests.conformance.eventlog.conftest import Intrude
from tests.waiting import eventually

ANSWER = b'{"type":"io.nats.jetstream.api.v1.stream_info_response","total":0,"offset":0,"limit":0}'
"""What a server writes when an event's subject is the reply subject of a request."""
HEARTBEAT = {"Nats-Last-Consumer": "6", "Nats-Last-Stream": "6"}
"""What it writes, without a payload, where a consumer is told to deliver."""


def event(name: str, *, kind: str = "Service", namespace: str = "shop", cluster: str = "c1") -> Event:
    return Event(
        schema=1,
        cluster=cluster,
        kind=kind,
        namespace=namespace,
        name=name,
        uid=f"uid-{name}",
        resource_version="1",
        operation="applied",
        object=msgspec.Raw(b"{}"),
    )


def pin(version: int) -> Event:
    body = events.encode_object(Pin(version=version))
    return msgspec.structs.replace(event(PIN_NAME, kind=PIN_KIND, namespace=""), object=body)


def draft(streams: Streams, one: Event) -> Draft:
    return Draft(one.subject(streams), events.encode(one))


async def write(log: EventLog, streams: Streams, *made: Event) -> Checkpoint:
    drafts = [draft(streams, one) for one in made]
    return await write_chained(log, *drafts, scope=streams.cluster_scope("c1"))


def behind(tip: Checkpoint, one: Draft) -> dict[str, str]:
    """The headers with which a record continues a chain."""
    after = chain_after(tip.chain, one.subject, one.payload)
    return {HEADER_EPOCH: tip.epoch, HEADER_CHAIN: tip.chain, HEADER_BATCH: "1/1", HEADER_AFTER: after}


async def read(log: EventLog, subjects: str = ">", start: int = 1) -> list[Record]:
    return [record async for record in log.read(start=start, subjects=subjects)]


def names(records: list[Record]) -> list[str]:
    return [record.subject.rpartition(".")[2] for record in records]


async def verified(log: EventLog, streams: Streams) -> Checkpoint:
    """Where the chain of the cluster ends for who reads all of it."""
    verifier = ChainVerifier()
    for record in await read(log, streams.cluster_scope("c1")):
        verifier.fold(record)
    assert not verifier.headless
    return verifier.checkpoint


async def followed(log: EventLog, count: int, subjects: str) -> list[Record]:
    found: list[Record] = []
    async with asyncio.timeout(10), contextlib.aclosing(log.follow(subjects=subjects)) as records:
        async for record in records:
            found.append(record)
            if len(found) == count:
                break
    return found


@pytest.fixture
async def log(logs: Logs, streams: Streams) -> EventLog:
    return await logs.open(streams.events)


@pytest.mark.parametrize("size", [1, 3])
async def test_a_writer_goes_on_behind_what_no_writer_wrote(
    log: EventLog, streams: Streams, intrude: Intrude, size: int
) -> None:
    tip = await write(log, streams, event("a"), event("b"))
    await intrude(streams.events, streams.event_subject("c1", "Pod", "x", "y"), ANSWER)
    await intrude(streams.events, event("a").subject(streams), b"", HEARTBEAT)
    scope = streams.cluster_scope("c1")
    assert await log.tip(scope) == tip
    more = [draft(streams, event(f"c{number}")) for number in range(size)]
    after = await log.append(more, scope=scope, after=tip)
    assert after.sequence == 4 + size
    assert await verified(log, streams) == await log.tip(scope) == after


async def test_readers_never_see_it(log: EventLog, streams: Streams, intrude: Intrude) -> None:
    await intrude(streams.events, event("a").subject(streams), ANSWER)
    await write(log, streams, event("a"))
    await intrude(streams.events, event("a").subject(streams), ANSWER)
    await write(log, streams, event("b"))
    await intrude(streams.events, event("b").subject(streams), b"", HEARTBEAT)
    scope = streams.cluster_scope("c1")
    assert names(await read(log)) == ["a", "b"]
    assert names(await read(log, start=3)) == ["b"]
    assert names(await followed(log, 2, scope)) == ["a", "b"]
    assert [record.sequence for record in await log.last_per_subject(scope)] == [2, 4]
    assert [found.sequence for place in (1, 3, 4) if (found := await log.at(place))] == [2, 4, 4]
    assert await log.at(5) is None
    for subjects in (scope, ">", event("b").subject(streams)):
        found = await log.last(subjects)
        assert found is not None
        assert found.sequence == 4
    assert (await log.bounds(), (await log.extent()).count) == ((1, 5), 5)


async def test_a_follower_goes_on_over_what_comes(log: EventLog, streams: Streams, intrude: Intrude) -> None:
    seen: list[Record] = []

    async def follow() -> None:
        async for record in log.follow(subjects=streams.cluster_scope("c1")):
            seen.append(record)  # noqa: PERF401 (looked at while it grows)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(follow())
        for name in "abc":
            await intrude(streams.events, event(name).subject(streams), ANSWER)
            await write(log, streams, event(name))
        await eventually(lambda: names(seen) == ["a", "b", "c"], within=10, what="all was followed")
        task.cancel()


async def test_hundreds_of_them_hide_nothing(log: EventLog, streams: Streams, intrude: Intrude) -> None:
    tip = await write(log, streams, event("a"), event("b"))
    for number in range(150):
        await intrude(streams.events, streams.event_subject("c1", "Pod", "x", f"y{number % 7}"), ANSWER)
    await intrude(streams.events, event("a").subject(streams), ANSWER)
    scope = streams.cluster_scope("c1")
    assert await log.tip(scope) == tip
    assert names(await log.last_per_subject(scope)) == ["a", "b"]
    found = await log.last(event("a").subject(streams))
    assert found is not None
    assert found.sequence == 1
    await write(log, streams, event("c"))
    assert names(await read(log)) == ["a", "b", "c"]


async def test_a_scope_that_holds_nothing_else_is_empty(log: EventLog, streams: Streams, intrude: Intrude) -> None:
    scope = streams.cluster_scope("c1")
    await intrude(streams.events, event("a").subject(streams), ANSWER)
    assert await log.tip(scope) == EMPTY
    assert await log.last(scope) is None
    assert await log.last_per_subject(scope) == []
    await write(log, streams, event("a"))
    assert (await verified(log, streams)).sequence == 2


async def test_a_new_epoch_begins_behind_it(log: EventLog, streams: Streams, intrude: Intrude) -> None:
    tip = await write(log, streams, event("a"))
    await intrude(streams.events, event("a").subject(streams), ANSWER)
    scope = streams.cluster_scope("c1")
    await log.append([draft(streams, event("b"))], scope=scope, after=tip, epoch="e2")
    assert (await log.tip(scope)).epoch == "e2"


async def test_who_is_late_is_refused_whatever_stands_in_between(
    log: EventLog, streams: Streams, intrude: Intrude
) -> None:
    tip = await write(log, streams, event("a"))
    await intrude(streams.events, event("a").subject(streams), ANSWER)
    await write(log, streams, event("b"))
    await intrude(streams.events, event("a").subject(streams), ANSWER)
    with pytest.raises(StaleWriterError):
        await log.append([draft(streams, event("c"))], scope=streams.cluster_scope("c1"), after=tip)
    assert names(await read(log)) == ["a", "b"]


async def test_a_scope_that_went_back_is_not_taken_for_the_same(
    log: EventLog, streams: Streams, intrude: Intrude
) -> None:
    """Foreign records took the places of those that were lost: a writer that knew them must notice."""
    scope = streams.cluster_scope("c1")
    await write(log, streams, event("a"))
    lost = Checkpoint(epoch="e1", sequence=2, chain="f" * 32)
    for _ in range(3):
        await intrude(streams.events, event("a").subject(streams), ANSWER)
    with pytest.raises(StaleWriterError):
        await log.append([draft(streams, event("c"))], scope=scope, after=lost)


async def test_damage_is_not_taken_for_it(log: EventLog, streams: Streams, intrude: Intrude) -> None:
    """A record that has any of our headers is ours, however bad it looks: it breaks the chain."""
    await write(log, streams, event("a"))
    one = draft(streams, event("b"))
    await intrude(streams.events, one.subject, one.payload, {HEADER_EPOCH: "e1"})
    with pytest.raises(ChainBrokenError):
        await verified(log, streams)


async def test_a_lost_record_shows_behind_it(log: EventLog, streams: Streams, intrude: Intrude) -> None:
    tip = await write(log, streams, event("a"))
    lost = draft(streams, event("b"))
    after = Checkpoint(epoch="e1", sequence=2, chain=chain_after(tip.chain, lost.subject, lost.payload))
    await intrude(streams.events, event("a").subject(streams), ANSWER)
    one = draft(streams, event("c"))
    await intrude(streams.events, one.subject, one.payload, behind(after, one))
    with pytest.raises(ChainBrokenError):
        await verified(log, streams)


# What those write who may write one subject of the chain


async def test_a_pin_that_fits_is_one_of_the_chain(log: EventLog, streams: Streams) -> None:
    await write(log, streams, event("a"))
    await write(log, streams, pin(1))
    await write(log, streams, event("b"))
    assert names(await read(log)) == ["a", PIN_NAME, "b"]
    assert names(await read(log, pin(1).subject(streams))) == [PIN_NAME]
    found = await log.last(pin(1).subject(streams))
    assert found is not None
    assert found.sequence == 2


@pytest.mark.parametrize(
    "headers",
    [
        {HEADER_EPOCH: "e1", HEADER_CHAIN: "a" * 32, HEADER_BATCH: "1/1"},
        {HEADER_EPOCH: "e0", HEADER_CHAIN: "a" * 32},
        {HEADER_EPOCH: "e9", HEADER_CHAIN: GENESIS, HEADER_BATCH: "1/1"},
        {HEADER_EPOCH: "e9", HEADER_CHAIN: GENESIS, "Meshlog-Epoch-Records": "1000"},
        {HEADER_BATCH: "x/y"},
    ],
)
async def test_a_pin_that_does_not_continue_the_chain_is_none(
    log: EventLog, streams: Streams, intrude: Intrude, headers: dict[str, str]
) -> None:
    """Its writer may break no chain, and begin no epoch that would void what others wrote."""
    await write(log, streams, event("a"))
    real = await write(log, streams, pin(1))
    for _ in range(2):
        await intrude(streams.events, pin(7).subject(streams), events.encode(pin(7)), headers)
    scope, subject = streams.cluster_scope("c1"), pin(1).subject(streams)
    assert await log.tip(scope) == real
    found = await log.last(subject)
    assert found is not None
    assert found.sequence == 2
    assert [record.sequence for record in await log.last_per_subject(scope)] == [1, 2]
    assert [record.sequence for record in await read(log, subject)] == [2]
    assert [record.sequence for record in await read(log, subject, start=3)] == []
    assert await log.at(3) is None
    await write(log, streams, event("b"))
    assert names(await read(log)) == ["a", PIN_NAME, "b"]
    await verified(log, streams)


async def test_a_pin_behind_a_lost_record_does_not_hide_the_loss(
    log: EventLog, streams: Streams, intrude: Intrude
) -> None:
    tip = await write(log, streams, event("a"))
    lost = draft(streams, event("b"))
    held = Checkpoint(epoch="e1", sequence=2, chain=chain_after(tip.chain, lost.subject, lost.payload))
    one = draft(streams, pin(1))
    await intrude(streams.events, one.subject, one.payload, behind(held, one))
    held = Checkpoint(epoch="e1", sequence=3, chain=chain_after(held.chain, one.subject, one.payload))
    two = draft(streams, event("c"))
    await intrude(streams.events, two.subject, two.payload, behind(held, two))
    with pytest.raises(ChainBrokenError):
        await verified(log, streams)


@pytest.mark.parametrize(
    "says",
    [
        events.encode(event("all", kind="TrafficTarget")),
        events.encode(event("osm-mesh-config", kind="MeshConfig", namespace="meshlog-system")),
        events.encode(msgspec.structs.replace(pin(9), cluster="c2")),
        events.encode(msgspec.structs.replace(pin(9), object=msgspec.Raw(b"{}"))),
        b"{}",
        ANSWER,
    ],
)
async def test_who_may_pin_says_nothing_else_there(
    log: EventLog, streams: Streams, says: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is part of the chain, as its writer continued it, but nothing of it counts, and the pin before it does."""
    await write(log, streams, event("a"))
    await write(log, streams, pin(1))
    subject, scope = pin(1).subject(streams), streams.cluster_scope("c1")
    tip = await write_chained(log, Draft(subject, says), scope=scope)
    assert await log.tip(scope) == tip
    found = await log.last(subject)
    assert found is not None
    assert found.sequence == 2
    assert [record.sequence for record in await log.last_per_subject(scope)] == [1, 2]
    *_, last = await read(log, subject)
    assert last.payload == says
    with pytest.raises(events.CorruptEventError):
        in_force_by(events.read(last))
    assert "record 3" in caplog.text
    await write(log, streams, event("b"))
    await verified(log, streams)


# Streams without chains, and those of which each subject is one


def status(pod: str, edge: str = "edge-1") -> ProxyStatus:
    return ProxyStatus("c1", "shop", pod, f"uid-{pod}", "web", edge, connected=True, since=1)


async def test_only_the_statuses_of_proxies_are_read(logs: Logs, streams: Streams, intrude: Intrude) -> None:
    log = await logs.open(streams.status)
    subject = streams.status_subject("c1", "shop", "p1")
    await log.publish(Draft(subject, encode_status(status("p1"))))
    for payload in (ANSWER, b"", b"\xff\xfe", b"[" * 100_000, encode_status(status("p2"))):
        await intrude(streams.status, streams.status_subject("c1", "shop", "p2"), payload)
        if payload != encode_status(status("p2")):
            await intrude(streams.status, subject, payload)
    found = await log.last(subject)
    assert found is not None
    assert decode_status(found.payload) == status("p1")
    assert [decode_status(one.payload).pod for one in await log.last_per_subject(streams.all_status)] == ["p1", "p2"]
    assert [decode_status(one.payload).pod for one in await read(log)] == ["p1", "p2"]


async def test_the_bundle_is_found_behind_what_hides_it(logs: Logs, streams: Streams, intrude: Intrude) -> None:
    log = await logs.open(streams.certs)
    subject = streams.bundle_subject("cluster.local")
    bundle = certificate_records.encode(TrustBundle("cluster.local", 1, ["PEM"], []))
    tip = await write_chained(log, Draft(subject, bundle))
    for payload in (ANSWER, b"", bundle):
        await intrude(streams.certs, subject, payload)
    found = await log.last(subject)
    assert found is not None
    assert found.sequence == 1
    assert await log.tip(subject) == tip
    await log.append([Draft(subject, bundle)], scope=subject, after=tip)
    assert [record.sequence for record in await read(log, subject)] == [1, 5]


async def test_only_answers_and_notes_under_their_own_names_are_read(
    logs: Logs, streams: Streams, intrude: Intrude
) -> None:
    log = await logs.open(streams.certs)
    answer = certificate_records.encode(SigningAnswer(id="r1"))
    note = certificate_records.encode(AuditNote("rotation", "rotation/steady"))
    await log.publish(Draft(streams.issued_subject("e", "r1"), answer))
    await log.publish(Draft(streams.audit_subject("rotation"), note))
    await intrude(streams.certs, streams.issued_subject("e", "r2"), answer)
    await intrude(streams.certs, streams.audit_subject("refused"), note)
    await intrude(streams.certs, f"{streams.prefix}.certs.elsewhere", note)
    await intrude(streams.certs, f"{streams.prefix}.certs.issued.e.r1.more", answer)
    await intrude(streams.certs, streams.audit_subject("rotation"), ANSWER)
    assert [record.sequence for record in await read(log)] == [1, 2]
    found = await log.last(streams.audit_subject("rotation"))
    assert found is not None
    assert found.sequence == 2


async def test_the_copy_of_a_pin_is_found_behind_what_hides_it(logs: Logs, streams: Streams, intrude: Intrude) -> None:
    log = await logs.open(streams.pins)
    subject = streams.pin_subject("c1")
    await log.publish(Draft(subject, events.encode(pin(1))))
    for payload in (ANSWER, events.encode(event("a")), events.encode(msgspec.structs.replace(pin(2), cluster="c2"))):
        await intrude(streams.pins, subject, payload)
    found = await log.last(subject)
    assert found is not None
    assert found.payload == events.encode(pin(1))


async def test_a_queue_gives_no_job_that_is_none(logs: Logs, streams: Streams, intrude: Intrude) -> None:
    log = await logs.open(streams.csrs)
    request = certificate_records.encode(SigningRequest("r1", "e", b"csr", "k", b"t", "c1", "spiffe://x"))
    for payload in (ANSWER, b"", certificate_records.encode(SigningRequest("r1", "f", b"csr", "k", b"t", "c1", "s"))):
        await intrude(streams.csrs, streams.csr_subject("e"), payload)
    await log.publish(Draft(streams.csr_subject("e"), request))
    async with asyncio.timeout(10):
        async for job in log.take("ca"):
            assert job.record.payload == request
            await job.done()
            break
    await eventually(lambda: _empty(log), within=10, what="nothing is left in the queue")


async def _empty(log: EventLog) -> bool:
    return not (await log.extent()).count


async def test_blobs_are_put_together_around_it(logs: Logs, streams: Streams, intrude: Intrude) -> None:
    log, subject = await logs.open(streams.keyframes), streams.keyframe_subject
    for version in (1, 2):
        content = bytes(str(version), "ascii") * 40
        await intrude(streams.keyframes, subject, b"", HEARTBEAT)
        await write_chained(log, *chunked_payload.split(content, subject, version=version, chunk=16))
    for _ in range(3):
        await intrude(streams.keyframes, subject, b"", HEARTBEAT)
    found = await chunked_payload.newest(log, subject)
    assert found is not None
    assert found[1] == b"2" * 40
    assert await log.lacks_after(8) is False


async def test_what_is_missing_at_the_end_is_told_from_what_is_foreign(
    logs: Logs, streams: Streams, intrude: Intrude
) -> None:
    log, subject = await logs.open(streams.snapshots), streams.snapshot_subject
    tip = await write_chained(log, Draft(subject, b"1"))
    assert not await log.lacks_after(tip.sequence)
    await intrude(streams.snapshots, subject, b"", HEARTBEAT)
    assert not await log.lacks_after(tip.sequence)
    await log.advance(beyond=9)
    assert await log.lacks_after(tip.sequence)


async def test_each_is_counted_once_by_its_stream(
    logs: Logs, log: EventLog, streams: Streams, intrude: Intrude
) -> None:
    await write(log, streams, event("a"))
    await intrude(streams.events, event("a").subject(streams), ANSWER)
    await intrude(streams.events, event("b").subject(streams), ANSWER)
    for _ in range(3):
        await read(log)
        await log.tip(streams.cluster_scope("c1"))
    assert isinstance(logs, MemoryLogs | JetStreamLogs)
    assert logs.foreign.counts == {streams.events: 2}
    assert logs.foreign.newest == {streams.events: "record 3 carries no chain"}
