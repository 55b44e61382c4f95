"""What the filter of a stream tells apart, where only a log in memory can be damaged as it takes."""

from __future__ import annotations

import pytest

from shared.eventlog.foreign import ForeignRecords
from shared.eventlog.protocol import GENESIS, HEADER_BATCH, HEADER_CHAIN, HEADER_EPOCH, Draft, Record, StaleWriterError
from shared.records.pins import PIN_KIND, PIN_NAME
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.chained import write_chained

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope("c1")
PIN = STREAMS.event_subject("c1", PIN_KIND, "", PIN_NAME)


def pod(name: str) -> Draft:
    return Draft(STREAMS.event_subject("c1", "Pod", "shop", name), b"{}")


async def test_a_writer_whose_record_was_lost_does_not_go_on_behind_foreign_ones() -> None:
    log = MemoryLogs(STREAMS).stream(STREAMS.events)
    await write_chained(log, pod("a"), scope=SCOPE)
    tip = await write_chained(log, pod("b"), scope=SCOPE)
    log.lose(tip.sequence)
    log.intrude(pod("c").subject)
    with pytest.raises(StaleWriterError):
        await log.append([pod("c")], scope=SCOPE, after=tip)


async def test_in_an_empty_log_no_guest_begins_an_epoch() -> None:
    log = MemoryLogs(STREAMS).stream(STREAMS.events)
    log.intrude(PIN, b"{}", {HEADER_EPOCH: "e9", HEADER_CHAIN: GENESIS, HEADER_BATCH: "1/1"})
    assert [record async for record in log.read()] == []
    assert (await log.tip(SCOPE)).sequence == 0


async def test_what_stands_under_another_streams_subject_is_foreign() -> None:
    """A consumer that delivers into a stream stores each message under its old subject, with its old headers."""
    logs = MemoryLogs(STREAMS)
    await write_chained(logs.stream(STREAMS.events), pod("a"), scope=SCOPE)
    (record,) = [one async for one in logs.stream(STREAMS.events).read()]
    log = logs.stream(STREAMS.snapshots)
    log.intrude(record.subject, record.payload, record.headers)
    assert [one async for one in log.read()] == []
    assert await log.last(">") is None
    assert "no subject of this stream" in logs.foreign.newest[STREAMS.snapshots]


async def test_a_copy_that_the_server_made_is_foreign_under_whatever_subject() -> None:
    log = MemoryLogs(STREAMS).stream(STREAMS.events)
    await write_chained(log, pod("a"), scope=SCOPE)
    (record,) = [one async for one in log.read()]
    log.intrude(record.subject, record.payload, {**record.headers, "Nats-Stream": STREAMS.events})
    assert [one.sequence async for one in log.read()] == [1]


def test_a_flood_is_one_line_in_ten_seconds_and_all_of_it_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    foreign = ForeignRecords(clock=lambda: now)
    told: list[str] = []
    foreign.counted = told.append
    for number in range(5000):
        record = Record(f"mesh.events.c1.Pod.x.y{number}", number, b"", number, {})
        foreign.note("MESH_EVENTS", record, "carries \x1b[2Jno\nchain")
    assert len(caplog.records) == 1
    assert foreign.counts == {"MESH_EVENTS": 5000}
    assert len(told) == 5000
    assert foreign.newest["MESH_EVENTS"] == "record 4999 carries ?[2Jno?chain"
    now = 11.0
    foreign.note("MESH_EVENTS", Record("s", 6000, b"", 6000, {}), "carries no chain")
    assert "4999 more" in caplog.records[-1].getMessage()
