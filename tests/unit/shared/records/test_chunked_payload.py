"""Blobs: what was split comes together again, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import EMPTY, BatchTooLargeError, Record
from shared.records import chunked_payload

SUBJECT = "mesh.keyframes"


async def append(log: MemoryLog, payload: bytes, *, version: int = 7, chunk: int = 100) -> list[Record]:
    tip = await log.tip(SUBJECT)
    drafts = chunked_payload.split(payload, SUBJECT, version=version, chunk=chunk, headers={"x": "y"})
    end = await log.append(drafts, scope=SUBJECT, after=tip, epoch="" if tip.epoch else "e1")
    return [record async for record in log.read(start=end.sequence - len(drafts) + 1)]


@given(st.binary(max_size=1000), st.integers(1, 300))
async def test_what_was_split_comes_together(payload: bytes, chunk: int) -> None:
    records = await append(MemoryLog(), payload, chunk=chunk)
    assembler = chunked_payload.Assembler()
    whole = [assembler.feed(record) for record in records]
    assert whole == [None] * (len(records) - 1) + [payload]


async def test_large_blobs_are_compressed_and_come_back() -> None:
    payload = b"cluster: outbound|80\n" * 20_000
    records = await append(MemoryLog(), payload, chunk=1000)
    assert sum(len(record.payload) for record in records) < len(payload) / 10
    assembler = chunked_payload.Assembler()
    assert [assembler.feed(record) for record in records][-1] == payload
    assert {(chunked_payload.version_of(record), record.headers["x"]) for record in records} == {(7, "y")}


async def test_reading_may_start_in_the_middle_of_a_blob() -> None:
    log = MemoryLog()
    one = await append(log, b"1" * 250)
    two = await append(log, b"2" * 250)
    assembler = chunked_payload.Assembler()
    assert [assembler.feed(record) for record in (*one[1:], *two)] == [None, None, None, None, b"2" * 250]


@pytest.mark.parametrize("missing", [1, 2])
async def test_a_missing_chunk_is_named_and_the_next_blob_is_read_all_the_same(missing: int) -> None:
    log = MemoryLog()
    one = await append(log, bytes(350))
    two = await append(log, b"2" * 250)
    three = await append(log, b"3" * 250)
    del one[missing]
    assembler = chunked_payload.Assembler()
    broken, whole = 0, list[bytes]()
    for record in (*one, *two, *three):
        try:
            payload = assembler.feed(record)
        except chunked_payload.BlobError:
            broken += 1
        else:
            whole += [payload] if payload is not None else []
    assert broken == 1
    assert whole[-1] == b"3" * 250
    assert bytes(350) not in whole


async def test_a_blob_that_was_written_in_part_is_passed_over_and_what_follows_it_is_read() -> None:
    """A server without room writes a batch up to some record, and refuses it."""
    log = MemoryLog()
    one = await append(log, bytes(range(250)), version=1)
    log.roll_back(one[1].sequence)
    again = await append(log, bytes(range(250)), version=1)
    assembler = chunked_payload.Assembler()
    assert [assembler.feed(record) for record in (*one[:2], *again)] == [None, None, None, None, bytes(range(250))]
    found = await chunked_payload.newest(log, SUBJECT)
    assert found is not None
    assert found[1] == bytes(range(250))


async def test_changed_bytes_are_no_blob() -> None:
    log = MemoryLog()
    for payload in (b"small", b"large" * 10_000):
        records = await append(log, payload, chunk=1000)
        log.corrupt(records[-1].sequence, records[-1].payload[:-1] + b"#")
        with pytest.raises(chunked_payload.BlobError):
            await chunked_payload.newest(log, SUBJECT)


async def test_the_newest_blob_is_found_behind_others() -> None:
    log = MemoryLog()
    assert await chunked_payload.newest(log, SUBJECT) is None
    await append(log, b"1" * 450, version=1)
    await append(log, b"2" * 250, version=2)
    found = await chunked_payload.newest(log, SUBJECT)
    assert found is not None
    record, payload = found
    assert (chunked_payload.version_of(record), payload) == (2, b"2" * 250)
    assert (await log.tip(SUBJECT)).sequence == record.sequence != EMPTY.sequence


async def test_the_blob_before_is_used_if_the_newest_is_broken() -> None:
    log = MemoryLog()
    await append(log, b"1" * 450, version=1)
    records = await append(log, b"2" * 450, version=2)
    log.lose(records[-2].sequence)
    found = await chunked_payload.newest(log, SUBJECT)
    assert found is not None
    assert (chunked_payload.version_of(found[0]), found[1]) == (1, b"1" * 450)


def test_a_blob_that_fits_into_no_batch_is_refused() -> None:
    with pytest.raises(BatchTooLargeError):
        chunked_payload.split(bytes(range(256)) * 5, SUBJECT, version=1, chunk=1)
