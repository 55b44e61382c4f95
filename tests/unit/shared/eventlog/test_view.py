"""A view is what the newest records of its subjects say, through every fault of a log; one rule for epochs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import MeshlogError
from shared.eventlog.fold import Epoch, ViewRestartError
from shared.eventlog.foreign import ForeignFilter, ForeignRecords
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import Draft, Record
from shared.eventlog.view import Begin, LogView, ViewLimits
from shared.records.subjects import Streams
from shared.streams.specs import specs
from shared.timing.backoff import Backoff
from tests.chained import write_chained
from tests.waiting import eventually

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope("c1")
PODS, NODES = STREAMS.kind_scope("c1", "Pod"), STREAMS.kind_scope("c1", "Node")
WITHIN = 5.0
GONE, UNREADABLE, RESTART = b"", b"?", b"!"


def pod(name: str) -> str:
    return STREAMS.event_subject("c1", "Pod", "shop", name)


def node(name: str) -> str:
    return STREAMS.event_subject("c1", "Node", "", name)


class Map:
    """The simplest fold: the newest payload of each subject."""

    def __init__(self) -> None:
        self.items: dict[str, bytes] = {}
        self.epochs: list[str] = []
        self.folded: list[int] = []

    def reset(self, epoch: Epoch) -> None:
        assert epoch.chain in (SCOPE, "a")
        self.epochs.append(epoch.id)
        self.items.clear()

    def fold(self, record: Record) -> bool:
        if record.payload == UNREADABLE:
            raise MeshlogError("test/unreadable", "is unreadable")
        if record.payload == RESTART:
            raise ViewRestartError("test/restart", "read again")
        self.folded.append(record.sequence)
        if record.payload == GONE:
            self.items.pop(record.subject, None)
            return False
        self.items[record.subject] = record.payload
        return True


class HookedLog(MemoryLog):
    """A log to which something happens at a chosen moment."""

    def __init__(self) -> None:
        super().__init__()
        self.after_reading: Callable[[str], Awaitable[object]] | None = None
        """Called once, when the newest records of some subjects were read."""
        self.held_back: dict[str, asyncio.Event] = {}
        """By subjects: what must be set before a follower of them is given more."""
        self.given: dict[str, int] = {}
        """Sequence of the record that followers were given last, by subjects."""

    async def last_per_subject(self, subjects: str = ">") -> list[Record]:
        found = await super().last_per_subject(subjects)
        self.given.pop(subjects, None)
        if self.after_reading is not None:
            hook, self.after_reading = self.after_reading, None
            await hook(subjects)
        return found

    async def follow(self, *, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        async for record in super().follow(start=start, subjects=subjects):
            if subjects in self.held_back:
                await self.held_back[subjects].wait()
            self.given[subjects] = record.sequence
            yield record

    async def followed(self) -> None:
        """Wait until followers were given the newest records: only then do they see that the log lost one."""

        async def are_current() -> bool:
            newest = {subjects: await self.last(subjects) for subjects in (PODS, NODES)}
            return all(one is None or self.given.get(subjects) == one.sequence for subjects, one in newest.items())

        await eventually(are_current, within=WITHIN, what="the log is followed")


async def write(log: MemoryLog, subject: str, payload: bytes = b"x", *, epoch: str = "") -> None:
    await write_chained(log, Draft(subject, payload), scope=SCOPE, epoch=epoch)


def view(log: MemoryLog, fold: Map, *subjects: str, **more: Any) -> LogView:
    return LogView(
        log,
        fold,
        name="the test",
        subjects=subjects or (PODS, NODES),
        streams=STREAMS,
        backoff=Backoff(0.001, 0.001),
        **more,
    )


@contextlib.asynccontextmanager
async def running(made: LogView, *, caught_up: bool = True) -> AsyncGenerator[None]:
    task = asyncio.create_task(made.run())
    try:
        if caught_up:
            async with asyncio.timeout(WITHIN):
                await made.caught_up.wait()
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def holds(fold: Map, *subjects: str) -> None:
    await eventually(lambda: set(fold.items) == set(subjects), within=WITHIN, what=f"it holds {subjects}")


# What is there, and what comes


async def test_it_holds_the_newest_record_of_each_subject_then_what_comes() -> None:
    log, fold = MemoryLog(), Map()
    for payload in (b"1", b"2"):
        await write(log, pod("a"), payload)
    await write(log, STREAMS.event_subject("c1", "Service", "shop", "s"))
    made = view(log, fold)
    async with running(made):
        assert fold.items == {pod("a"): b"2"}
        await write(log, node("n"))
        await write(log, STREAMS.event_subject("c1", "Service", "shop", "s"))
        await holds(fold, pod("a"), node("n"))
        await write(log, pod("a"), GONE)
        await holds(fold, node("n"))
    assert (made.readings, len(fold.folded)) == (1, 3), "each record is folded once"


async def test_with_an_empty_log_it_has_caught_up_at_once() -> None:
    for begin in Begin:
        async with running(view(MemoryLog(), Map(), "a", begin=begin)):
            pass


async def test_from_now_on_nothing_of_before_is_folded() -> None:
    log, fold = MemoryLog(), Map()
    await write(log, pod("before"))
    async with running(view(log, fold, PODS, begin=Begin.NEXT)):
        await write(log, pod("after"))
        await holds(fold, pod("after"))


@pytest.mark.parametrize("settle", [0.0, 0.01])
async def test_a_change_wakes_its_waiters(settle: float) -> None:
    log, fold = MemoryLog(), Map()
    made = view(log, fold, settle=settle)
    async with running(made):
        await write(log, pod("a"))
        async with asyncio.timeout(WITHIN):
            async for _ in made.changes():
                if fold.items:
                    break
        change = made.next_change()
        await write(log, pod("d"))
        async with asyncio.timeout(WITHIN):
            await change.wait()
        assert pod("d") in fold.items


async def test_changes_are_collected_before_they_wake_a_waiter() -> None:
    log, fold = MemoryLog(), Map()
    made = view(log, fold, settle=3600.0)
    async with running(made):
        change = made.next_change()
        for name in "ab":
            await write(log, pod(name))
            await eventually(lambda: pod(name) in fold.items, within=WITHIN, what="it is folded")  # noqa: B023
        assert not change.is_set()


# Faults of the log


async def test_a_log_that_is_away_is_waited_for_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    log, fold = MemoryLog(), Map()
    await write(log, pod("a"))
    log.down()
    made = view(log, fold)
    with caplog.at_level(logging.DEBUG):
        async with running(made, caught_up=False):
            await eventually(lambda: len(caplog.records) >= 3, within=WITHIN, what="it tried three times")
            assert not made.caught_up.is_set()
            log.up()
            await holds(fold, pod("a"))
            log.down()
            assert fold.items, "what is known stays in force"
            log.up()
            await write(log, pod("b"))
            await holds(fold, pod("a"), pod("b"))
    assert [one.levelno for one in caplog.records if "cannot be followed" in one.message].count(logging.WARNING) == 1
    assert made.readings == 1


async def test_what_was_rolled_back_is_not_held_any_more() -> None:
    log, fold = HookedLog(), Map()
    for name in "abc":
        await write(log, pod(name))
    made = view(log, fold)
    async with running(made):
        await log.followed()
        log.roll_back(2)
        await holds(fold, pod("a"), pod("b"))
        await write(log, pod("d"))
        await holds(fold, pod("a"), pod("b"), pod("d"))
    assert made.readings == 2


async def test_a_log_that_went_back_between_reading_and_following_is_read_again() -> None:
    log, fold = HookedLog(), Map()
    for name in "ab":
        await write(log, pod(name))

    async def go_back(_subjects: str) -> None:
        log.roll_back(0)
        for name in "cde":
            await write(log, pod(name), epoch="e1" if name == "c" else "")

    log.after_reading = go_back
    async with running(view(log, fold)):
        await holds(fold, pod("c"), pod("d"), pod("e"))


async def test_a_hole_falls_back_to_what_the_log_still_holds() -> None:
    log, fold = MemoryLog(), Map()
    for payload in (b"1", b"2"):
        await write(log, pod("a"), payload)
    await write(log, pod("b"))
    log.lose(2)
    async with running(view(log, fold)):
        assert fold.items == {pod("a"): b"1", pod("b"): b"x"}


async def test_an_unreadable_record_leaves_the_last_good_one_in_force(caplog: pytest.LogCaptureFixture) -> None:
    log, fold = MemoryLog(), Map()
    await write(log, pod("never"), UNREADABLE)
    await write(log, pod("a"))
    made = view(log, fold)
    async with running(made):
        await write(log, pod("a"), UNREADABLE)
        await write(log, pod("b"))
        await holds(fold, pod("a"), pod("b"))
    assert "record 3 is skipped: is unreadable" in caplog.text
    assert (made.skipped, made.readings, made.left_out) == (2, 1, 0)


async def test_an_error_of_the_fold_itself_ends_the_view() -> None:
    class Wrong(Map):
        def fold(self, record: Record) -> bool:
            raise KeyError(record.subject)

    log = MemoryLog()
    await write(log, pod("a"))
    with pytest.raises(KeyError):
        await view(log, Wrong()).run()


async def test_a_fold_that_cannot_go_on_is_read_again_from_its_seed() -> None:
    log, fold, seeds = MemoryLog(), Map(), list[int]()

    async def seed() -> None:
        seeds.append(len(fold.items))

    for payload in (b"1", b"2"):
        await write_chained(log, Draft("a", payload))
    made = view(log, fold, "a", begin=Begin.FIRST, seed=seed)
    async with running(made):
        assert fold.folded == [1, 2], "every record counts, not the newest alone"
        await write_chained(log, Draft("a", RESTART))
        await eventually(lambda: made.readings > 2, within=WITHIN, what="it reads again")
        await write_chained(log, Draft("a", b"4"))
        await log.trim(before=4)
        await eventually(lambda: fold.folded[-1] == 4 or None, within=WITHIN, what="and goes on")
    assert seeds[:2] == [0, 0]


# Bounds


async def test_further_subjects_are_left_out_when_it_is_full_and_a_deletion_makes_room(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log, fold = MemoryLog(), Map()
    for name in "abc":
        await write(log, pod(name))
    made = view(log, fold, limits=ViewLimits(subjects=2))
    async with running(made):
        assert set(fold.items) == {pod("a"), pod("b")}
        await write(log, pod("d"))
        await write(log, pod("a"), b"changed")
        await eventually(lambda: fold.items[pod("a")] == b"changed", within=WITHIN, what="what is held goes on")
        assert made.left_out == 2
        await write(log, pod("a"), GONE)
        await write(log, pod("e"))
        await holds(fold, pod("b"), pod("e"))
    assert caplog.text.count("are left out") == 1


async def test_the_bytes_are_bounded_and_a_new_epoch_makes_room() -> None:
    log, fold = MemoryLog(), Map()
    await write(log, pod("a"), b"x" * 80)
    await write(log, pod("b"), b"x" * 30)
    made = view(log, fold, limits=ViewLimits(bytes=100))
    async with running(made):
        assert set(fold.items) == {pod("a")}
        await write(log, pod("a"), b"x" * 60)
        await write(log, pod("c"), b"x" * 40)
        await holds(fold, pod("a"), pod("c"))
        await write(log, pod("b"), b"x" * 100, epoch="e2")
        await holds(fold, pod("b"))
    assert made.left_out == 1


# The rule for epochs


async def test_rule_1_what_a_new_epoch_does_not_name_again_is_not_read() -> None:
    log, fold = MemoryLog(), Map()
    for name in "ab":
        await write(log, pod(name))
    await write(log, pod("b"), epoch="e2")
    await write(log, STREAMS.event_subject("c1", "Service", "shop", "s"), epoch="e3")
    await write(log, node("n"))
    async with running(view(log, fold)):
        assert (fold.items, fold.epochs) == ({node("n"): b"x"}, ["e3"])


async def test_rule_1_an_epoch_that_begins_during_the_reading_is_in_force() -> None:
    log, fold = HookedLog(), Map()
    await write(log, pod("a"))
    log.after_reading = lambda _subjects: write(log, node("n"), epoch="e2")
    async with running(view(log, fold)):
        await holds(fold, node("n"))
        assert fold.folded == [2], "the record of the epoch that ended was never folded"


async def test_rule_2_a_new_epoch_voids_what_was_folded() -> None:
    log, fold = MemoryLog(), Map()
    for subject in (pod("a"), node("n")):
        await write(log, subject)
    made = view(log, fold)
    async with running(made):
        await write(log, pod("b"), epoch="e2")
        await holds(fold, pod("b"))
        assert (fold.epochs, made.readings) == (["e1", "e2"], 1)


async def test_rule_3_a_late_record_of_an_epoch_that_ended_is_not_folded() -> None:
    log, fold = HookedLog(), Map()
    await write(log, node("n"))
    log.held_back[NODES] = asyncio.Event()
    made = view(log, fold)
    async with running(made):
        await write(log, node("late"))
        await write(log, pod("a"), epoch="e2")
        await holds(fold, pod("a"))
        log.held_back[NODES].set()
        await write(log, node("new"))
        await holds(fold, pod("a"), node("new"))
        assert (fold.epochs, made.readings) == (["e1", "e2"], 1)


async def test_rule_4_an_unknown_epoch_earlier_in_the_log_is_read_again() -> None:
    """The pods had no record when they were read; one of the epoch that was about to end came a moment later."""
    log, fold = HookedLog(), Map()
    await write(log, STREAMS.event_subject("c1", "Service", "shop", "s"))

    async def between(_subjects: str) -> None:
        await write(log, pod("a"))
        await write(log, node("n"), epoch="e2")

    log.after_reading = between
    made = view(log, fold, PODS, NODES)
    async with running(made):
        await eventually(lambda: made.readings > 1, within=WITHIN, what="it reads again")
        await holds(fold, node("n"))
    assert (set(fold.folded), made.readings) == ({3}, 2)


async def test_rule_4_a_stream_that_was_made_anew_is_read_again() -> None:
    log, fold = HookedLog(), Map()
    for name in "abc":
        await write(log, pod(name))
    made = view(log, fold)
    async with running(made):
        await log.followed()
        log.recreate()
        await write(log, pod("d"), epoch="e2")
        await holds(fold, pod("d"))
    assert made.readings == 2


async def test_an_ended_epoch_of_commits_is_not_folded_from_the_first_record_on() -> None:
    log, fold = MemoryLog(), Map()
    await write_chained(log, Draft("a", b"old"))
    await write_chained(log, Draft("a", b"new"), epoch="e2")
    async with running(view(log, fold, "a", begin=Begin.FIRST)):
        assert fold.folded == [2]
        await write_chained(log, Draft("a", b"newer"), epoch="e3")
        await eventually(lambda: fold.epochs == ["e2", "e3"], within=WITHIN, what="the epoch begins")


async def test_records_without_a_chain_are_replaced_by_their_successors_alone() -> None:
    log, fold = MemoryLog(), Map()
    await log.publish(Draft("a", b"1"))
    made = view(log, fold, "a")
    async with running(made):
        await log.publish(Draft("a", b"2"))
        log.recreate()
        await log.publish(Draft("a", b"3"))
        await eventually(lambda: fold.items == {"a": b"3"}, within=WITHIN, what="the newest counts")
    assert fold.epochs == []


def test_a_chain_of_the_view_is_a_chain_of_the_stream() -> None:
    """The scope that a view asks for the tip of is the one that the log's writers chain."""
    streams = Streams(prefix="other")
    subjects = {
        streams.events: streams.event_subject("c.1", "Pod", "shop", "a"),
        streams.snapshots: streams.snapshot_subject,
        streams.leases: streams.lease_subject("compiler"),
        streams.certs: streams.bundle_subject("cluster.local"),
    }
    for name, subject in subjects.items():
        assert streams.chain_scope(subject) == ForeignFilter(specs(streams)[name], ForeignRecords()).scope(subject)


# Any history

NAMES = st.sampled_from([pod("a"), pod("b"), node("n"), node("m")])
STEPS = st.one_of(
    st.tuples(st.just("write"), NAMES, st.sampled_from([b"1", b"2", b"3", GONE])),
    st.tuples(st.just("epoch"), NAMES, st.just(b"new")),
    st.tuples(st.just("anew"), NAMES, st.just(b"anew")),
    st.tuples(st.just("roll back"), st.integers(0, 3), st.just(b"")),
    st.tuples(st.just("outage"), NAMES, st.just(b"9")),
    st.tuples(st.just("wait"), st.just(""), st.just(b"")),
)


async def expected(log: MemoryLog) -> dict[str, bytes]:
    """What the newest record of each subject says, if it is of the newest epoch: written down naively."""
    found: dict[str, bytes] = {}
    epoch = (await log.tip(SCOPE)).epoch
    for record in [one async for one in log.read(subjects=SCOPE)]:
        if record.epoch != epoch:
            continue
        found.pop(record.subject, None)
        if record.payload != GONE:
            found[record.subject] = record.payload
    return found


@settings(max_examples=80, deadline=None)
@given(steps=st.lists(STEPS, max_size=14))
def test_after_any_history_it_is_what_the_log_says(steps: list[tuple[str, Any, bytes]]) -> None:
    async def history() -> None:
        log, fold, number = HookedLog(), Map(), 1
        await write(log, pod("a"))
        made = view(log, fold)

        async def right() -> bool:
            return fold.items == await expected(log)

        async with running(made):
            for what, where, payload in steps:
                number += 1
                match what:
                    case "write":
                        await write(log, where, payload)
                    case "epoch":
                        await write(log, where, payload, epoch=f"e{number}")
                    case "anew":
                        await log.followed()
                        log.recreate()
                        await write(log, where, payload, epoch=f"e{number}")
                    case "roll back":
                        await log.followed()
                        readings, last = made.readings, log.sequences[-1]
                        log.roll_back(max(1, last - where))
                        # Before its sequences are given again: after that, only the chain shows the loss.
                        if log.sequences[-1] < last:
                            await eventually(lambda: made.readings > readings, within=WITHIN, what="it reads again")  # noqa: B023
                    case "outage":
                        log.down()
                        await asyncio.sleep(0)
                        log.up()
                        await write(log, where, payload)
                    case _:
                        await asyncio.sleep(0)
            await eventually(right, within=WITHIN, what="it is right in the end")
        again = Map()
        async with running(view(log, again)):
            assert again.items == fold.items, "a restart comes to the same"

    asyncio.run(history())
