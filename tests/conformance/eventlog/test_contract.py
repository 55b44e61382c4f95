"""What every implementation of the log promises, tried on the in-memory log and on a real NATS JetStream."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import TypeVar

import pytest

from shared.eventlog.chain import ChainVerifier
from shared.eventlog.protocol import (
    EMPTY,
    GENESIS,
    HEADER_CHAIN,
    MAX_BATCH,
    MAX_PAYLOAD,
    BatchTooLargeError,
    Checkpoint,
    Draft,
    DuplicateError,
    EventLog,
    EventLogError,
    Extent,
    Job,
    Logs,
    LogUnavailableError,
    Record,
    StaleWriterError,
)
from shared.records.certificate_records import SigningRequest, encode
from shared.records.proxy_status import ProxyStatus, decode_status, encode_status
from shared.records.subjects import Streams
from tests.waiting import eventually

T = TypeVar("T")
WITHIN = 10.0


def event(streams: Streams, name: str, payload: bytes = b"{}", *, message_id: str = "", cluster: str = "c1") -> Draft:
    return Draft(streams.event_subject(cluster, "Service", "shop", name), payload, message_id)


def reported(streams: Streams, pod: str, since: int) -> Draft:
    """The status of a proxy."""
    status = ProxyStatus("c1", "shop", pod, "uid", "web", "edge", connected=True, since=since)
    return Draft(streams.status_subject("c1", "shop", pod), encode_status(status))


def moment(record: Record) -> int:
    return decode_status(record.payload).since


def asked(request: str) -> bytes:
    """A signing request."""
    return encode(SigningRequest(request, "edge", b"csr", "key", b"token", "c1", "spiffe://cluster.local/ns/a/sa/b"))


async def write(log: EventLog, streams: Streams, *names: str) -> Checkpoint:
    """Append one batch of events where the log stands."""
    scope = streams.cluster_scope("c1")
    tip = await log.tip(scope)
    drafts = [event(streams, name, name.encode()) for name in names]
    return await log.append(drafts, scope=scope, after=tip, epoch="" if tip.epoch else "e1")


async def everything(log: EventLog, *, start: int = 1, subjects: str = ">") -> list[Record]:
    return [record async for record in log.read(start=start, subjects=subjects)]


async def first(count: int, items: AsyncGenerator[T]) -> list[T]:
    """The first so many items of an endless iterator."""
    found: list[T] = []
    async with asyncio.timeout(WITHIN), contextlib.aclosing(items) as open_items:
        async for item in open_items:
            found.append(item)
            if len(found) == count:
                break
    return found


async def test_an_empty_scope_has_the_empty_checkpoint(log: EventLog, streams: Streams) -> None:
    assert await log.tip(streams.cluster_scope("c1")) == EMPTY
    assert await everything(log) == []
    assert await log.bounds() == (1, 0)
    assert await log.last(streams.all_events) is None
    assert await log.last_per_subject() == []


async def test_an_append_is_read_back_as_it_was_written(log: EventLog, streams: Streams) -> None:
    scope = streams.cluster_scope("c1")
    draft = Draft(streams.event_subject("c1", "Pod", "a.b", "x_ü"), b"\x00\xff", "id", {"traceparent": "00-ab-cd-01"})
    checkpoint = await log.append([draft], scope=scope, after=EMPTY, epoch="e1")
    (record,) = await everything(log)
    assert (record.subject, record.payload) == (draft.subject, draft.payload)
    assert record.headers["traceparent"] == "00-ab-cd-01"
    assert (record.epoch, record.batch, record.ends_batch) == ("e1", (1, 1), True)
    assert not [name for name in record.headers if name.startswith("Nats-")]
    assert checkpoint.sequence == record.sequence
    assert await log.last(draft.subject) == record
    assert abs(record.time / 1e9 - time.time()) < 600


async def test_a_batch_is_one_step_of_the_chain_for_the_writer_and_many_for_readers(
    log: EventLog, streams: Streams
) -> None:
    checkpoint = await write(log, streams, "a", "b", "c")
    records = await everything(log)
    assert [record.batch for record in records] == [(1, 3), (2, 3), (3, 3)]
    assert [record.ends_batch for record in records] == [False, False, True]
    assert records[0].headers[HEADER_CHAIN] == GENESIS
    verifier = ChainVerifier(EMPTY)
    assert [verifier.fold(record) for record in records] == [True, False, False]
    assert verifier.checkpoint == checkpoint == await log.tip(streams.cluster_scope("c1"))


async def test_the_chain_goes_on_over_single_records_and_batches(log: EventLog, streams: Streams) -> None:
    for names in (("a",), ("b", "c"), ("a",), ("a", "b")):
        checkpoint = await write(log, streams, *names)
    verifier = ChainVerifier(EMPTY)
    for record in await everything(log):
        verifier.fold(record)
    assert verifier.checkpoint == checkpoint


@pytest.mark.parametrize("size", [1, 3])
async def test_a_writer_whose_scope_has_moved_on_is_refused(log: EventLog, streams: Streams, size: int) -> None:
    scope = streams.cluster_scope("c1")
    stale = await write(log, streams, "a")
    await write(log, streams, "b")
    drafts = [event(streams, f"late-{number}") for number in range(size)]
    for after in (stale, EMPTY):
        with pytest.raises(StaleWriterError):
            await log.append(drafts, scope=scope, after=after, epoch="e9")
    assert len(await everything(log)) == 2


async def test_a_writer_ahead_of_the_scope_is_refused(log: EventLog, streams: Streams) -> None:
    scope = streams.cluster_scope("c1")
    with pytest.raises(StaleWriterError):
        await log.append([event(streams, "a")], scope=scope, after=Checkpoint("e1", 7, GENESIS))
    assert await everything(log) == []


async def test_scopes_do_not_disturb_each_other(log: EventLog, streams: Streams) -> None:
    one = await write(log, streams, "a")
    other = streams.cluster_scope("c2")
    two = await log.append([event(streams, "x", cluster="c2")], scope=other, after=EMPTY, epoch="f1")
    after = await log.append([event(streams, "b")], scope=streams.cluster_scope("c1"), after=one)
    assert (one.sequence, two.sequence, after.sequence) == (1, 2, 3)
    assert await log.tip(other) == two
    verifier = ChainVerifier(EMPTY)
    for record in await everything(log, subjects=streams.cluster_scope("c1")):
        verifier.fold(record)
    assert verifier.checkpoint == after


async def test_of_two_writers_at_once_one_wins(log: EventLog, streams: Streams) -> None:
    scope = streams.cluster_scope("c1")

    async def attempt(number: int) -> bool:
        try:
            await log.append([event(streams, f"w{number}")] * (1 + number % 2), scope=scope, after=EMPTY, epoch="e1")
        except StaleWriterError:
            return False
        return True

    assert sum(await asyncio.gather(*(attempt(number) for number in range(6)))) == 1


@pytest.mark.parametrize("size", [1, 2])
async def test_a_message_id_that_was_seen_refuses_the_whole_batch(log: EventLog, streams: Streams, size: int) -> None:
    scope = streams.cluster_scope("c1")
    tip = await log.append([event(streams, "a", message_id="one")], scope=scope, after=EMPTY, epoch="e1")
    drafts = [event(streams, "b", message_id="two"), event(streams, "a", message_id="one")][-size:]
    with pytest.raises(DuplicateError):
        await log.append(drafts, scope=scope, after=tip)
    assert await log.tip(scope) == tip
    assert await log.append([event(streams, "b", message_id="two")], scope=scope, after=tip)


async def test_an_append_repeated_after_its_answer_was_lost_is_refused(log: EventLog, streams: Streams) -> None:
    """Stale or duplicate: either says that it is there already."""
    scope = streams.cluster_scope("c1")
    for drafts in ([event(streams, "a", message_id="1")], [event(streams, x, message_id=x) for x in "xy"]):
        tip = await log.tip(scope)
        await log.append(drafts, scope=scope, after=tip, epoch="" if tip.epoch else "e1")
        with pytest.raises((StaleWriterError, DuplicateError)):
            await log.append(drafts, scope=scope, after=tip, epoch="" if tip.epoch else "e1")
    assert len(await everything(log)) == 3


async def test_a_new_epoch_starts_the_chain_again(log: EventLog, streams: Streams) -> None:
    scope = streams.cluster_scope("c1")
    old = await write(log, streams, "a", "b")
    new = await log.append([event(streams, "a"), event(streams, "b")], scope=scope, after=old, epoch="e2")
    assert (new.epoch, new.sequence) == ("e2", 4)
    verifier = ChainVerifier(EMPTY)
    assert [verifier.fold(record) for record in await everything(log)] == [True, False, True, False]
    assert verifier.checkpoint == new == await log.tip(scope)


async def test_a_batch_of_the_greatest_size_fits_and_one_more_does_not(log: EventLog, streams: Streams) -> None:
    scope = streams.cluster_scope("c1")
    drafts = [event(streams, f"n{number}") for number in range(MAX_BATCH + 1)]
    with pytest.raises(BatchTooLargeError):
        await log.append(drafts, scope=scope, after=EMPTY, epoch="e1")
    tip = await log.append(drafts[:-1], scope=scope, after=EMPTY, epoch="e1")
    assert tip.sequence == MAX_BATCH
    assert len(await log.last_per_subject()) == MAX_BATCH


async def test_a_record_of_the_greatest_size_fits_and_one_byte_more_does_not(log: EventLog, streams: Streams) -> None:
    scope = streams.cluster_scope("c1")
    with pytest.raises(BatchTooLargeError):
        await log.append([event(streams, "a", b"x" * (MAX_PAYLOAD + 1))], scope=scope, after=EMPTY, epoch="e1")
    with pytest.raises(BatchTooLargeError):
        await log.publish(event(streams, "a", b"x" * (MAX_PAYLOAD + 1)))
    full = event(streams, "a", b"x" * MAX_PAYLOAD)
    await log.append([full] * 3, scope=scope, after=EMPTY, epoch="e1")
    assert [len(record.payload) for record in await everything(log)] == [MAX_PAYLOAD] * 3


async def test_an_append_that_makes_no_sense_is_a_bug_of_the_caller(log: EventLog, streams: Streams) -> None:
    scope = streams.cluster_scope("c1")
    for drafts, epoch in (([], "e1"), ([event(streams, "a", cluster="c2")], "e1"), ([event(streams, "a")], "")):
        with pytest.raises(ValueError, match=r"."):
            await log.append(drafts, scope=scope, after=EMPTY, epoch=epoch)


async def test_a_published_message_id_is_written_once(log: EventLog, streams: Streams) -> None:
    sequences = [await log.publish(event(streams, "a", message_id="same")) for _ in range(3)]
    assert sequences == [1, 1, 1]
    assert [await log.publish(event(streams, "a")) for _ in range(2)] == [2, 3]


async def test_a_read_ends_where_the_log_ends(log: EventLog, streams: Streams) -> None:
    await write(log, streams, *"abcde")
    assert [record.sequence for record in await everything(log)] == [1, 2, 3, 4, 5]
    assert [record.sequence for record in await everything(log, start=4)] == [4, 5]
    assert await everything(log, start=6) == []
    assert await everything(log, start=600) == []
    assert [record.pending for record in await everything(log)] == [4, 3, 2, 1, 0]


async def test_a_read_of_some_subjects_ends_too(log: EventLog, streams: Streams) -> None:
    await write(log, streams, *"abcab")
    subject = streams.event_subject("c1", "Service", "shop", "a")
    assert [record.sequence for record in await everything(log, subjects=subject)] == [1, 4]
    assert [record.sequence for record in await everything(log, subjects=subject, start=2)] == [4]
    assert await everything(log, subjects=streams.kind_scope("c1", "Pod")) == []


async def test_the_newest_record_of_each_subject(log: EventLog, streams: Streams) -> None:
    await write(log, streams, *"abcab")
    newest = await log.last_per_subject(streams.cluster_scope("c1"))
    assert [(record.sequence, record.payload) for record in newest] == [(3, b"c"), (4, b"a"), (5, b"b")]
    assert await log.last_per_subject(streams.cluster_scope("c2")) == []
    last = await log.last(streams.cluster_scope("c1"))
    assert last is not None
    assert last.sequence == 5


async def test_a_look_into_the_middle_finds_the_next_record_that_is_still_there(
    log: EventLog, streams: Streams
) -> None:
    await write(log, streams, "a", "b")
    await write(log, streams, "c")
    await log.trim(before=2)
    found = [await log.at(sequence) for sequence in (0, 1, 2, 3, 4)]
    assert [record and (record.sequence, record.payload) for record in found] == [
        (2, b"b"),
        (2, b"b"),
        (2, b"b"),
        (3, b"c"),
        None,
    ]
    assert found[3] is not None
    assert found[3].headers[HEADER_CHAIN] == (await everything(log, start=3))[0].headers[HEADER_CHAIN]


async def test_a_follower_gets_what_was_there_and_what_comes(log: EventLog, streams: Streams) -> None:
    await write(log, streams, "a", "b")
    following = asyncio.create_task(first(5, log.follow()))
    await write(log, streams, "c")
    await write(log, streams, "d", "e")
    records = await following
    assert [record.payload for record in records] == [b"a", b"b", b"c", b"d", b"e"]
    assert records[-1].pending == 0


async def test_a_follower_may_start_beyond_the_end(log: EventLog, streams: Streams) -> None:
    await write(log, streams, "a")
    following = asyncio.create_task(first(2, log.follow(start=4)))
    for name in "bcde":
        await write(log, streams, name)
    assert [record.sequence for record in await following] == [4, 5]


async def test_followers_of_some_subjects_get_only_these(log: EventLog, streams: Streams) -> None:
    subject = streams.event_subject("c1", "Service", "shop", "b")
    following = asyncio.create_task(first(2, log.follow(subjects=subject)))
    for name in "abab":
        await write(log, streams, name)
    assert [record.sequence for record in await following] == [2, 4]


async def test_only_the_newest_reports_of_a_proxy_are_kept(logs: Logs, streams: Streams) -> None:
    log = await logs.open(streams.status)
    for number in range(9):
        await log.publish(reported(streams, f"p{number % 2}", number))
    counts = [moment(one) for one in await everything(log, subjects=streams.status_subject("c1", "shop", "p0"))]
    assert counts == [0, 2, 4, 6, 8]
    await log.publish(reported(streams, "p0", 10))
    counts = [moment(one) for one in await everything(log, subjects=streams.status_subject("c1", "shop", "p0"))]
    assert counts == [2, 4, 6, 8, 10]
    assert [moment(record) for record in await log.last_per_subject()] == [7, 10]


async def test_a_job_is_with_one_taker_until_it_is_done(logs: Logs, streams: Streams) -> None:
    queue = await logs.open(streams.csrs)
    for number in range(4):
        await queue.publish(Draft(streams.csr_subject("edge"), asked(str(number))))
    seen: list[bytes] = []

    async def work() -> None:
        jobs: AsyncGenerator[Job] = queue.take("ca")
        async for job in jobs:
            seen.append(job.record.payload)
            await job.done()

    takers = [asyncio.create_task(work()) for _ in range(2)]
    try:
        await eventually(lambda: _emptied(queue), within=WITHIN, what="every job is done")
    finally:
        for taker in takers:
            taker.cancel()
    assert sorted(seen) == [asked(str(number)) for number in range(4)]


async def _emptied(queue: EventLog) -> bool:
    start, end = await queue.bounds()
    return start > end


async def test_a_job_put_back_is_taken_again(logs: Logs, streams: Streams) -> None:
    queue = await logs.open(streams.csrs)
    await queue.publish(Draft(streams.csr_subject("edge"), asked("job")))
    jobs = queue.take("ca")
    (job,) = await first(1, jobs)
    await job.retry(after=0.05)
    (again,) = await first(1, queue.take("ca"))
    assert again.record.payload == asked("job")
    assert again.record.sequence == job.record.sequence


async def test_a_stream_that_is_no_queue_gives_no_jobs(log: EventLog) -> None:
    with pytest.raises(EventLogError):
        await first(1, log.take("ca"))


async def test_a_log_is_kept_short_without_a_difference_for_later_readers(log: EventLog, streams: Streams) -> None:
    await write(log, streams, *"abcd")
    assert await log.extent() == Extent(first=1, last=4, count=4)
    await log.trim(before=3)
    assert await log.bounds() == (3, 4)
    assert await log.extent() == Extent(first=3, last=4, count=2)
    assert [record.sequence for record in await everything(log)] == [3, 4]
    assert [record.sequence for record in await first(2, log.follow())] == [3, 4]
    checkpoint = await write(log, streams, "e")
    verifier = ChainVerifier()
    for record in await everything(log, start=2):
        verifier.fold(record)
    assert verifier.checkpoint == checkpoint
    await log.trim(before=100)
    assert await log.bounds() == (5, 5)
    assert await log.tip(streams.cluster_scope("c1")) == checkpoint


async def test_closing_ends_followers_and_takers_and_refuses_the_rest(logs: Logs, streams: Streams) -> None:
    log, queue = await logs.open(streams.events), await logs.open(streams.csrs)
    await write(log, streams, "a")
    seen: list[int] = []

    async def follow() -> None:
        async for record in log.follow():
            seen.append(record.sequence)  # noqa: PERF401 (it is looked at before it ends)

    async def take() -> None:
        async for _ in queue.take("ca"):
            pass

    async with asyncio.timeout(WITHIN), asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        tasks.create_task(take())
        await eventually(lambda: seen, within=WITHIN, what="the follower has begun")
        await logs.close()
    with pytest.raises(LogUnavailableError):
        await log.tip(streams.cluster_scope("c1"))
    with pytest.raises(LogUnavailableError):
        await log.publish(event(streams, "b"))


async def test_streams_may_be_made_by_everybody_at_once(logs: Logs, streams: Streams) -> None:
    await asyncio.gather(*(logs.ensure() for _ in range(5)))
    names = {(await logs.open(name)).name for name in (streams.events, streams.certs)}
    assert names == {streams.events, streams.certs}


async def test_a_stream_that_went_back_is_advanced_beyond_what_was_published(log: EventLog, streams: Streams) -> None:
    checkpoint = await write(log, streams, "a", "b")
    await log.advance(beyond=1)
    assert await log.bounds() == (1, 2), "it is further already"
    await log.advance(beyond=500)
    assert await log.tip(streams.cluster_scope("c1")) == EMPTY
    again = await log.append(
        [event(streams, "a")], scope=streams.cluster_scope("c1"), after=EMPTY, epoch=f"{checkpoint.epoch}-2"
    )
    assert again.sequence == 501
    assert [record.sequence for record in await everything(log)] == [501]
    assert [record.sequence for record in await first(1, log.follow(start=3))] == [501]


async def test_one_scope_is_trimmed_and_the_others_stay(log: EventLog, streams: Streams) -> None:
    for cluster in ("c1", "c2", "c1", "c1"):
        scope = streams.cluster_scope(cluster)
        tip = await log.tip(scope)
        draft = Draft(streams.event_subject(cluster, "Pod", "shop", "a"), b"x")
        await log.append([draft], scope=scope, after=tip, epoch="" if tip.epoch else f"e-{cluster}")
    await log.trim(before=4, subjects=streams.cluster_scope("c1"))
    assert [record.sequence for record in await everything(log)] == [2, 4]
    assert (await log.extent()).gaps == 1
