"""A past epoch can be looked at, and what the log has forgotten is said, never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.history.changes import object_at, objects_between
from cli.history.replaying import Replay
from cli.history.source import Source, of_archive
from cli.history.standing import standing
from cli.history.states import LostHistoryError, complete_from
from cli.history.timeline import Timeline, living
from cli.history.why import why
from shared.eventlog.memory import MemoryLog
from shared.events import ObjectKey
from shared.snapshot import CDS
from tests.property.history.worlds import exported, recorded
from tests.unit.compiler import objects
from tests.unit.compiler.objects import CLUSTER

TARGET = next(event for event in objects.bookstore() if event.kind == "TrafficTarget")
BOOKSTORE = len(objects.bookstore())


async def told_again() -> Source:
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
    answer = await why(timeline, await timeline.glance(past, proxy), proxy, CDS, name)
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


async def test_what_was_forgotten_is_said(tmp_path: Path) -> None:
    """Events that are gone could have forbidden a call: no answer is made from the rest of them."""
    source = await recorded([[event] for event in objects.bookstore()], keyframe_every=4)
    timeline = Timeline(source)
    assert await complete_from(source) == 1
    assert isinstance(source.events, MemoryLog)
    await source.events.trim(before=5)
    assert await complete_from(source) == BOOKSTORE + 1
    for version in (3, 7, BOOKSTORE):
        with pytest.raises(LostHistoryError, match="events from 5 on only"):
            await timeline.state(version)
    with pytest.raises(LostHistoryError, match="not all known"):
        await objects_between(timeline, 2, 9)
    assert list(await objects_between(timeline, 5, 6))
    found = await standing(source)
    assert (found.rebuilt_from, found.objects_from) == (1, BOOKSTORE + 1)
    archive = await exported(source, tmp_path / "log", first=8, state_every=3)
    with pytest.raises(LostHistoryError, match="begins in the middle"):
        await Replay(of_archive(archive), verify=True).run()
    with pytest.raises(LostHistoryError, match="file begins at event 8"):
        await Timeline(of_archive(archive)).state(9)
    archive.close()


async def test_an_epoch_after_what_was_forgotten_is_complete_again() -> None:
    source = await told_again()
    assert isinstance(source.events, MemoryLog)
    before = living(await Timeline(source).state(await Timeline(source).head()))
    await source.events.trim(before=5)
    assert await complete_from(source) == BOOKSTORE + 1
    assert living(await Timeline(source).state(await Timeline(source).head())) == before
    with pytest.raises(LostHistoryError):
        await Timeline(source).state(BOOKSTORE)


def _named(key: ObjectKey) -> tuple[str, str, str]:
    assert key.cluster == CLUSTER
    return key.kind, key.namespace, key.name


def _clusters(view: dict[str, dict[str, str]]) -> list[str]:
    return [name for name in sorted(view.get(CDS, {})) if name.startswith("outbound")]
