"""The chain: a reader accepts exactly what was written, in that order."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.eventlog.chain import ChainVerifier
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import EMPTY, HEADER_AFTER, HEADER_BEGINS, ChainBrokenError, Checkpoint, Draft, Record
from shared.eventlog.trim_marker import with_marks

SCOPE = "mesh.events.c1.>"


async def log_of(*batches: int, epoch: str = "e1") -> tuple[list[Record], Checkpoint]:
    log, tip = MemoryLog(), EMPTY
    for size in batches:
        drafts = [Draft(f"mesh.events.c1.{tip.sequence + n}", bytes([n])) for n in range(size)]
        tip = await log.append(drafts, scope=SCOPE, after=tip, epoch="" if tip.epoch else epoch)
    return [record async for record in log.read()], tip


def accepted(records: list[Record], start: Checkpoint | None = EMPTY) -> ChainVerifier:
    verifier = ChainVerifier(start)
    for record in records:
        verifier.fold(record)
    return verifier


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.data())
async def test_any_damage_is_noticed(batches: list[int], data: st.DataObject) -> None:
    records, tip = await log_of(*batches)
    assert accepted(records).checkpoint == tip
    index = data.draw(st.integers(0, len(records) - 2))
    damage = data.draw(st.sampled_from(["lost", "swapped", "repeated", "changed", "moved"]))
    damaged = list(records)
    if damage == "lost":
        del damaged[index]
    elif damage == "swapped":
        damaged[index], damaged[index + 1] = damaged[index + 1], damaged[index]
    elif damage == "repeated":
        damaged.insert(index, damaged[index])
    elif damage == "changed":
        damaged[index] = msgspec.structs.replace(damaged[index], payload=damaged[index].payload + b"!")
    else:
        damaged[index] = msgspec.structs.replace(damaged[index], subject="mesh.events.c1.other")
    with pytest.raises(ChainBrokenError):
        accepted(damaged)


async def test_a_change_of_the_last_record_is_noticed_before_another_follows() -> None:
    records, _ = await log_of(2, 1)
    changed = msgspec.structs.replace(records[-1], payload=b"?")
    with pytest.raises(ChainBrokenError, match="was changed"):
        accepted([*records[:-1], changed])


async def test_a_record_of_an_older_build_is_vouched_for_by_its_successor_alone() -> None:
    records, tip = await log_of(2, 1)
    older = [
        msgspec.structs.replace(each, headers={k: v for k, v in each.headers.items() if k != HEADER_AFTER})
        for each in records
    ]
    assert accepted(older).checkpoint == tip


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
async def test_reading_goes_on_from_any_checkpoint(batches: list[int], data: st.DataObject) -> None:
    records, tip = await log_of(*batches)
    cut = data.draw(st.integers(0, len(records)))
    checkpoint = accepted(records[:cut]).checkpoint
    assert accepted(records[cut:], checkpoint).checkpoint == tip
    assert accepted(records[cut:], None).checkpoint in (tip, EMPTY)


async def test_a_break_leaves_the_checkpoint_where_it_was() -> None:
    records, _ = await log_of(1, 1, 1)
    verifier = accepted(records[:1])
    before = verifier.checkpoint
    with pytest.raises(ChainBrokenError, match="does not continue 1"):
        verifier.fold(records[2])
    assert verifier.checkpoint == before


async def test_a_new_epoch_is_accepted_at_any_sequence_but_an_old_one_never_comes_back() -> None:
    old, _ = await log_of(2, 2)
    new, tip = await log_of(1, 1, epoch="e2")
    verifier = accepted(old)
    assert [verifier.fold(record) for record in new] == [True, False]
    assert verifier.checkpoint == tip
    with pytest.raises(ChainBrokenError, match="which had ended"):
        verifier.fold(old[0])


async def test_the_middle_of_another_epoch_is_no_beginning() -> None:
    old, _ = await log_of(2)
    new, _ = await log_of(1, 1, epoch="e2")
    with pytest.raises(ChainBrokenError, match="in the middle of epoch e2"):
        accepted(old).fold(new[1])
    with pytest.raises(ChainBrokenError, match="in the middle"):
        accepted([]).fold(new[1])


async def test_an_unchained_record_is_refused() -> None:
    log = MemoryLog()
    await log.publish(Draft("mesh.events.c1.x", b""))
    with pytest.raises(ChainBrokenError, match="carries no chain"):
        accepted([record async for record in log.read()])


async def marked_log(*marks: int, records: int, epoch: str = with_marks("e1")) -> list[Record]:
    """A log of so many records, with marks behind it one by one."""
    log, tip = MemoryLog(), EMPTY
    for number, mark in enumerate([0] * records + list(marks)):
        headers = {HEADER_BEGINS: str(mark)} if mark else {}
        draft = Draft(f"mesh.events.c1.{number}", b"x", headers=headers)
        tip = await log.append([draft], scope=SCOPE, after=tip, epoch="" if tip.epoch else epoch)
    return [record async for record in log.read()]


async def test_a_log_that_was_never_trimmed_begins_with_its_first_record() -> None:
    records = await marked_log(records=4)
    assert not accepted(records, None).headless
    for lost in (1, 2, 3):
        assert f"begins with record {lost + 1}, inside epoch e1-m" in accepted(records[lost:], None).headless


@given(st.integers(2, 8), st.data())
async def test_a_log_begins_where_it_was_trimmed_or_before_and_not_behind(records: int, data: st.DataObject) -> None:
    """Before: whoever said so may have died before the trim, or NATS in the middle of it."""
    marks = sorted(data.draw(st.lists(st.integers(1, records), min_size=1, max_size=3)))
    written = await marked_log(*marks, records=records)
    begins = data.draw(st.integers(1, len(written)))
    assert bool(accepted(written[begins - 1 :], None).headless) == (begins > marks[-1])


async def test_a_mark_that_was_changed_or_moved_says_nothing() -> None:
    records = await marked_log(2, 2, records=4)
    header = records[4].headers[HEADER_BEGINS]
    assert not accepted(records[1:5], None).headless
    for damaged in (header.replace("2/", "3/"), "3", "x/" + header[2:], records[5].headers[HEADER_BEGINS]):
        moved = msgspec.structs.replace(records[4], headers={**records[4].headers, HEADER_BEGINS: damaged})
        assert accepted([*records[1:4], moved], None).headless


async def test_a_log_of_a_build_without_marks_is_believed_until_it_holds_one() -> None:
    records = await marked_log(2, records=4, epoch="e1")
    assert not accepted(records[2:4], None).headless
    assert "was trimmed up to 2 only" in accepted(records[2:], None).headless


async def test_an_epoch_that_begins_behind_a_lost_beginning_needs_none() -> None:
    old, new = await marked_log(records=3), (await log_of(1, 1, epoch="e2"))[0]
    verifier = accepted(old[1:], None)
    assert verifier.headless
    assert verifier.fold(new[0])
    assert not verifier.headless
    assert not accepted(old[1:], accepted(old[:1]).checkpoint).headless, "who stands somewhere has read the beginning"
