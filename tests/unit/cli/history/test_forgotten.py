"""A past epoch can be looked at, and what the log has forgotten is said, never guessed."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from cli.arrival.log_tracker import tracked
from cli.explain.provenance import why
from cli.history.changes import object_at, objects_between
from cli.history.log_source import LogSource, of_archive
from cli.history.object_states import LostHistoryError, complete_from
from cli.history.timeline import Timeline, living
from cli.replay.verification import Replay
from cli.state.mesh_status import mesh_status as standing_of
from services.ingestor.log.chain_position import ChainPosition
from services.ingestor.log.compaction import Compactor
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import HEADER_KEPT, Checkpoint, EventLog
from shared.records.events import ObjectKey
from shared.records.snapshot import CDS
from tests.property.history.worlds import STREAMS, exported, recorded
from tests.unit.compiler import objects
from tests.unit.compiler.objects import CLUSTER

TARGET = next(event for event in objects.bookstore() if event.kind == "TrafficTarget")
BOOKSTORE = len(objects.bookstore())


async def told_again() -> LogSource:
    """The bookstore, and then an epoch in which it is told again, but for a traffic target that has vanished."""
    again = [event for event in objects.bookstore() if event.key != TARGET.key]
    return await recorded([[event] for event in objects.bookstore()] + [again], epochs=[BOOKSTORE], keyframe_every=4)


async def test_a_past_epoch_is_looked_at_as_it_was() -> None:
    timeline = Timeline(await told_again())
    past, head = BOOKSTORE, await timeline.head()
    assert TARGET.key in living(await timeline.state(past))
    assert TARGET.key not in living(await timeline.state(head))
    assert await object_at(timeline, *_named(TARGET.key), past) is not None
    assert await object_at(timeline, *_named(TARGET.key), head) is None
    then = await timeline.snapshot(past)
    proxy = next(key for key in sorted(then.proxies) if _clusters(then.views[then.proxies[key].workload_class]))
    name = _clusters(then.views[then.proxies[proxy].workload_class])[0]
    answer = await why(timeline, await timeline.single_proxy_snapshot(past, proxy), proxy, CDS, name)
    assert all(reason.happened is not None and reason.happened.sequence <= past for reason in answer.decides)


async def test_a_file_with_two_epochs_replays_and_its_past_epoch_is_the_same(tmp_path: Path) -> None:
    source = await told_again()
    archive = await exported(source, tmp_path / "log", state_every=7)
    outcome = await Replay(of_archive(archive), verify=True).run()
    assert outcome.epochs == 2
    assert outcome.difference is None
    for version in (3, BOOKSTORE, BOOKSTORE + 3):
        kept = await Timeline(of_archive(archive)).state(version)
        live = await Timeline(source).state(version)
        assert [(item.sequence, item.event.key) for item in kept] == [(one.sequence, one.event.key) for one in live]
    archive.close()


async def trimmed() -> tuple[LogSource, int]:
    """The bookstore, then a target that comes and goes, the old part forgotten, and where what lives is said again."""
    seconds = itertools.count(1)
    gone = objects.deleted(TARGET.kind, TARGET.namespace, TARGET.name)
    news = [gone if number % 2 else TARGET for number in range(40)]
    source = await recorded(
        [[event] for event in [*objects.bookstore(), *news]],
        keyframe_every=4,
        clock=lambda: next(seconds) * 10**9,
        meanwhile=(BOOKSTORE + 30, forget),
    )
    kept = [record.sequence async for record in source.events.read() if HEADER_KEPT in record.headers]
    return source, max(kept)


async def forget(log: EventLog) -> Checkpoint:
    """What the ingestor does now and then; the tip afterwards."""
    standing = ChainPosition(log, STREAMS.cluster_scope(CLUSTER), retry=0.01)
    await standing.recover()
    await Compactor(log, STREAMS.cluster_scope(CLUSTER), window=20, slack=10).run(standing)
    return standing.tip


async def test_what_was_forgotten_is_said(tmp_path: Path) -> None:
    """Events that are gone could have forbidden a call: no answer is made from the rest of them."""
    source, known = await trimmed()
    timeline = Timeline(source)
    first, last = await source.events.bounds()
    head = await timeline.head()
    assert 1 < first < known < head <= last
    assert await complete_from(source) == known
    for version in (3, first, first + 1, known - 1):
        with pytest.raises(LostHistoryError, match=f"those from version {known} on are"):
            await timeline.state(version)
    whole = {event.key for event in objects.bookstore()}
    for version in (known, known + 1, head):
        assert {item.event.key for item in await timeline.state(version)} >= whole
    with pytest.raises(LostHistoryError, match="not all known"):
        await objects_between(timeline, 2, head)
    found = await standing_of(source, await tracked(source))
    assert found.objects_from == known
    archive = await exported(source, tmp_path / "log", state_every=3)
    outcome = await Replay(of_archive(archive), verify=True).run()
    assert outcome.difference is None
    assert outcome.forgotten
    assert outcome.versions
    with pytest.raises(LostHistoryError, match="has forgotten"):
        await Timeline(of_archive(archive)).state(first)
    assert {item.event.key for item in await Timeline(of_archive(archive)).state(known)} >= whole
    archive.close()


async def test_a_log_that_lost_its_beginning_tells_only_its_end() -> None:
    source = await recorded([[event] for event in objects.bookstore()], keyframe_every=4)
    assert await complete_from(source) == 1
    assert isinstance(source.events, MemoryLog)
    await source.events.trim(before=5)
    assert await complete_from(source) == BOOKSTORE
    for version in (3, 7, BOOKSTORE - 1):
        with pytest.raises(LostHistoryError, match="before event 5"):
            await Timeline(source).state(version)


async def test_a_trimmed_log_that_lost_its_beginning_tells_only_its_end() -> None:
    """What was said again was so before the trim, and what is lost came after it."""
    source, known = await trimmed()
    assert await complete_from(source) == known
    assert isinstance(source.events, MemoryLog)
    source.events.lose(source.events.sequences[0])
    assert await complete_from(source) == (await source.events.bounds())[1]
    outcome = await Replay(source, verify=True).run()
    assert "was trimmed up to" in outcome.broken


async def test_an_epoch_after_what_was_forgotten_is_complete_again() -> None:
    source = await told_again()
    assert isinstance(source.events, MemoryLog)
    before = living(await Timeline(source).state(await Timeline(source).head()))
    await source.events.trim(before=5)
    assert await complete_from(source) == BOOKSTORE + 1
    assert living(await Timeline(source).state(await Timeline(source).head())) == before
    with pytest.raises(LostHistoryError):
        await Timeline(source).state(BOOKSTORE)


async def test_a_damaged_keyframe_is_passed_over_and_a_damaged_commit_is_a_gap() -> None:
    source = await recorded([[event] for event in objects.bookstore()], keyframe_every=4)
    timeline = Timeline(source)
    head = await timeline.head()
    whole = await timeline.snapshot(head)
    assert isinstance(source.keyframes, MemoryLog)
    source.keyframes.corrupt(source.keyframes.sequences[-1], b"damaged")
    assert (await timeline.snapshot(head)).views == whole.views
    key = min(whole.proxies)
    assert (await timeline.single_proxy_snapshot(head, key)).proxies == {key: whole.proxies[key]}
    assert isinstance(source.snapshots, MemoryLog)
    source.snapshots.corrupt(source.snapshots.sequences[-2], b"damaged")
    for ask in (timeline.snapshot(head), timeline.single_proxy_snapshot(head, key)):
        with pytest.raises(LostHistoryError, match="cannot be rebuilt"):
            await ask


def _named(key: ObjectKey) -> tuple[str, str, str]:
    assert key.cluster == CLUSTER
    return key.kind, key.namespace, key.name


def _clusters(view: dict[str, dict[str, str]]) -> list[str]:
    return [name for name in sorted(view.get(CDS, {})) if name.startswith("outbound")]
