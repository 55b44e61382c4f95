"""A standby keeps what it learns until the leader has written it, and writes what the leader could not."""

from __future__ import annotations

import msgspec

from services.ingestor.core.log_diff import AppliedChange, DeletedChange, delete
from services.ingestor.core.object_index import ObjectIndex
from services.ingestor.core.observations import KindListed, ObjectDeleted, ObjectUpdated, Projected
from services.ingestor.core.standby_buffer import StandbyBuffer
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import EMPTY, Draft
from shared.records import events
from tests.unit.ingestor.log.test_event_writer import agrees
from tests.unit.ingestor.objects import projected
from tests.unit.ingestor.rig import PATIENCE, STREAMS, Rig, history, state
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually


async def test_a_standby_writes_nothing_and_is_ready_by_what_the_leader_wrote() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a")
    async with Rig(server, log, name="s", leads=False) as standby:
        await eventually(lambda: server.watches >= 2, within=5, what="its watches are open")
        assert await log.bounds() == (1, 0)
        assert "Pod" not in standby.writer.settled
        async with Rig(server, log, name="l"):
            await agrees(log, server)
            await eventually(lambda: {"Pod", "TrafficSplit"} <= standby.writer.settled, within=5, what="it is ready")
        assert standby.writer.counts.written == 0


async def test_a_standby_looks_often_until_it_is_ready_and_seldom_then() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a")
    patience = msgspec.structs.replace(PATIENCE, stand_by=60.0)
    async with Rig(server, log, name="s", leads=False, patience=patience) as standby:
        await eventually(lambda: server.watches >= 2, within=5, what="its watches are open")
        async with Rig(server, log, name="l"):
            await eventually(lambda: {"Pod", "TrafficSplit"} <= standby.writer.settled, within=5, what="it is ready")


async def test_what_the_leader_had_not_written_is_written_by_the_standby() -> None:
    """Also deletions and objects that came again, which only the standby's watch has seen."""
    server, log = ScriptedServer(), MemoryLog()
    for name in ("a", "b", "c"):
        server.apply_pod(name)
    async with Rig(server, log, name="s", leads=False) as standby:
        async with Rig(server, log, name="l"):
            await agrees(log, server)
            await eventually(lambda: "Pod" in standby.writer.settled, within=5, what="the standby is warm")
        lists = server.lists
        server.delete("Pod", "shop", "a")
        server.delete("Pod", "shop", "b")
        server.apply_pod("b", uid="another")
        server.apply_pod("d")
        standby.take_over()
        await agrees(log, server)
        assert server.lists == lists, "nothing was listed for it"
        assert len(await history(log)) == 3 + 1 + 2 + 1


async def test_a_standby_that_starts_while_the_leader_writes_a_long_epoch_is_ready_when_that_is_complete() -> None:
    server, full = ScriptedServer(page=50), MemoryLog()
    for number in range(10):
        server.apply_pod(f"p{number}")
    async with Rig(server, full):
        await agrees(full, server)
    drafts = [Draft(record.subject, record.payload, headers=record.headers) async for record in full.read()]
    log, scope = MemoryLog(), STREAMS.cluster_scope("c1")
    tip = await log.append(drafts[:4], scope=scope, after=EMPTY, epoch="long")
    async with Rig(server, log, name="s", leads=False) as standby:
        await eventually(lambda: server.watches >= 4, within=5, what="it has listed")
        for part in (drafts[4:8], drafts[8:]):
            assert "Pod" not in standby.writer.settled
            tip = await log.append(part, scope=scope, after=tip)
        await eventually(lambda: "Pod" in standby.writer.settled, within=5, what="it is ready")
        server.apply_pod("another")
        standby.take_over()
        await agrees(log, server)
        assert standby.writer.counts.epochs == 0, "the epoch is whole"


async def test_two_leaders_at_once_do_no_harm() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a")
    async with Rig(server, log, name="x") as one, Rig(server, log, name="y", leads=False) as two:
        await agrees(log, server)
        for number in range(20):
            server.apply_pod(f"p{number}")
            if number == 5:
                two.take_over()
        await agrees(log, server)
        assert one.writer.counts.written + two.writer.counts.written == 21


async def test_a_standby_that_takes_over_a_broken_log_begins_a_new_epoch() -> None:
    server, log = ScriptedServer(), MemoryLog()
    for name in ("a", "b", "c"):
        server.apply_pod(name)
    async with Rig(server, log, name="s", leads=False) as standby:
        async with Rig(server, log, name="l"):
            await agrees(log, server)
            await eventually(lambda: "Pod" in standby.writer.settled, within=5, what="the standby is warm")
        log.roll_back(2)
        standby.take_over()
        await agrees(log, server)
        assert standby.writer.counts.epochs == 1


def known_of(item: Projected, sequence: int = 5) -> ObjectIndex:
    """A book that holds one object."""
    index = ObjectIndex()
    index.enter(AppliedChange(item, 0))
    index.appended(AppliedChange(item, 0), sequence)
    index.commit_round()
    return index


def test_news_beside_a_list_that_is_not_written_yet_outlives_a_look_at_the_log() -> None:
    """Simulation, seed 193: the deletion was dropped, as the log had never contained the object; the list was kept."""
    standby, item = StandbyBuffer(), projected(rv=20)
    standby.keep(KindListed(kind="Pod", resource_version="20", objects=(item,)))
    gone = ObjectDeleted(kind="Pod", name=item.name, uid=item.uid, resource_version="21")
    standby.keep(gone)
    index = ObjectIndex()
    standby.forget_written(index)
    kept = standby.take()
    assert kept == [] or gone in kept, "a list without the news after it is the past"


def test_news_beside_a_list_stays_while_the_list_has_other_news() -> None:
    standby, item, other = StandbyBuffer(), projected(rv=20), projected("web-2", rv=19)
    listed = KindListed(kind="Pod", resource_version="20", objects=(item, other))
    gone = ObjectDeleted(kind="Pod", name=item.name, uid=item.uid, resource_version="21")
    standby.keep(listed)
    standby.keep(gone)
    assert standby.forget_written(ObjectIndex()) == set()
    assert standby.take() == [listed, gone]


def test_a_list_is_settled_when_the_watch_after_it_has_come_as_far_as_the_log() -> None:
    standby, old, new = StandbyBuffer(), projected(rv=20), projected(rv=30, ip="10.0.0.9")
    standby.keep(KindListed(kind="Pod", resource_version="25", objects=(old,)))
    index = known_of(new)
    assert standby.forget_written(index) == set(), "the log is ahead of the list: who is right?"
    standby.keep(ObjectUpdated(new))
    assert standby.forget_written(index) == {"Pod"}
    assert standby.take() == []


def test_the_end_of_an_object_is_the_end_of_its_predecessor() -> None:
    """Simulation, seed 302: between two looks the object died, came again under another uid and died again."""
    standby, old = StandbyBuffer(), projected(uid="old", rv=20)
    standby.keep(ObjectDeleted(kind="Pod", name=old.name, uid="old", resource_version="30"))
    standby.keep(ObjectUpdated(projected(uid="new", rv=31)))
    last = ObjectDeleted(kind="Pod", name=old.name, uid="new", resource_version="32")
    standby.keep(last)
    index = known_of(old)
    standby.forget_written(index)
    assert standby.take() == [last]
    verdict, changes = delete(index.get("Pod", old.name), last)
    assert (verdict, [type(change) for change in changes]) == ("written", [DeletedChange])
    assert isinstance(changes[0], DeletedChange)
    assert changes[0].uid == "old", "the event is about the object that the log holds"


async def write_by_another_hand(log: MemoryLog, name: str, *, rv: str, ip: str) -> None:
    """What a deposed leader had in hand, written after whatever stands in the log now."""
    newest = next(event for event in reversed(await history(log)) if event.name == name)
    assert newest.object is not None
    before = bytes(newest.object).decode()
    address = before.partition('"podIP":"')[2].partition('"')[0]
    late = msgspec.structs.replace(
        newest, resource_version=rv, object=msgspec.Raw(before.replace(address, ip).encode()), operation="applied"
    )
    scope = STREAMS.cluster_scope("c1")
    draft = Draft(subject=late.subject(STREAMS), payload=events.encode(late))
    await log.append([draft], scope=scope, after=await log.tip(scope))


async def test_older_news_by_a_late_writer_is_answered_by_who_knew_better_and_was_silent() -> None:
    """Simulation, seed 136: an object changed and changed back, and only the change was written, later."""
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a", ip="10.0.0.1")
    async with Rig(server, log, name="x"):
        await agrees(log, server)
    server.apply_pod("a", ip="10.0.0.2")
    between = str(server.version)
    server.apply_pod("a", ip="10.0.0.1")
    async with Rig(server, log, name="y") as leader:
        await eventually(lambda: leader.writer.counts.unchanged > 0, within=5, what="it knows that nothing changed")
        await write_by_another_hand(log, "a", rv=between, ip="10.0.0.2")
        server.apply_pod("b")
        await agrees(log, server)


async def test_an_object_that_a_late_writer_brings_back_is_deleted_again() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a")
    server.apply_pod("c")
    async with Rig(server, log, name="x"):
        await agrees(log, server)
    born = str(server.version + 1)
    server.apply_pod("never-seen")
    server.delete("Pod", "shop", "never-seen")
    async with Rig(server, log, name="y") as leader:
        await eventually(lambda: leader.writer.counts.unchanged > 0, within=5, what="it has listed")
        newest = next(event for event in reversed(await history(log)) if event.name == "a")
        late = msgspec.structs.replace(newest, name="never-seen", uid="uid-never-seen", resource_version=born)
        scope = STREAMS.cluster_scope("c1")
        draft = Draft(subject=late.subject(STREAMS), payload=events.encode(late))
        await log.append([draft], scope=scope, after=await log.tip(scope))
        server.apply_pod("b")
        await eventually(lambda: _lacks(log, "never-seen"), within=5, what="the log does not say that it lives")


async def _lacks(log: MemoryLog, name: str) -> bool:
    return all(not key.endswith(f"/{name}") for key in await state(log)) and any(
        event.name == name and event.operation == events.DELETED for event in await history(log)
    )
