"""The chain: a reader accepts exactly what was written, in that order."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.eventlog.chain import Verifier
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import EMPTY, ChainBrokenError, Checkpoint, Draft, Record

SCOPE = "mesh.events.c1.>"


async def log_of(*batches: int, epoch: str = "e1") -> tuple[list[Record], Checkpoint]:
    log, tip = MemoryLog(), EMPTY
    for size in batches:
        drafts = [Draft(f"mesh.events.c1.{tip.sequence + n}", bytes([n])) for n in range(size)]
        tip = await log.append(drafts, scope=SCOPE, after=tip, epoch="" if tip.epoch else epoch)
    return [record async for record in log.read()], tip


def accepted(records: list[Record], start: Checkpoint | None = EMPTY) -> Verifier:
    verifier = Verifier(start)
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
