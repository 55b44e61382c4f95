"""Byte-identical replay: random meshes, recorded by a compiler with its own batching, rebuilt from a file."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.history.replaying import Replay
from cli.history.source import of_archive
from cli.history.timeline import Timeline
from services.compiler.offline import compile_events
from shared.events import Event
from tests.property.compiler.worlds import flat, histories
from tests.property.history.worlds import contents, exported, recorded

FEW = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@FEW
@given(histories(), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 9))
def test_every_version_is_rebuilt_to_the_hash(batches: list[list[Event]], together: list[int], every: int) -> None:
    async def claim(folder: Path) -> None:
        source = await recorded(batches, together=together, keyframe_every=every)
        archive = await exported(source, folder / "log", state_every=every)
        try:
            replay = Replay(of_archive(archive), verify=True)
            outcome = await replay.run()
            assert outcome.difference is None
            assert not outcome.broken
            assert outcome.events == len(flat(batches))
            live = Timeline(source)
            if outcome.events:
                assert contents(replay.snapshot) == contents(await live.snapshot(await live.head()))
        finally:
            archive.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(claim(Path(folder)))


@FEW
@given(histories(), st.data())
def test_any_past_version_is_the_compile_of_the_events_up_to_it(
    batches: list[list[Event]], data: st.DataObject
) -> None:
    async def claim() -> None:
        timeline = Timeline(await recorded(batches, together=[2, 1], keyframe_every=3))
        history = flat(batches)
        if not history:
            return
        versions = [found.commit.version async for found in timeline.commits()]
        version = data.draw(st.sampled_from(versions))
        whole = await timeline.snapshot(version)
        assert contents(whole) == contents(compile_events(history[:version]))
        for key, proxy in whole.proxies.items():
            glanced = await timeline.glance(version, key)
            held = whole.views[proxy.workload_class]
            assert glanced.proxies == {key: proxy}
            assert glanced.views == {proxy.workload_class: {kind: names for kind, names in held.items() if names}}
            assert glanced.resources.items() <= whole.resources.items()
            assert (glanced.version, glanced.build) == (whole.version, whole.build)

    asyncio.run(claim())


@FEW
@given(histories(), st.data())
def test_an_export_that_begins_in_the_middle_is_compiled_from_the_state_there(
    batches: list[list[Event]], data: st.DataObject
) -> None:
    async def claim(folder: Path) -> None:
        history = flat(batches)
        if len(history) < 3:
            return
        # An object that cannot be read leaves its last good form in force: only its history knows that.
        source = await recorded(batches, together=[1], keyframe_every=2)
        first = data.draw(st.integers(2, len(history)))
        archive = await exported(source, folder / "log", first=first)
        try:
            outcome = await Replay(of_archive(archive)).run()
            assert outcome.events >= len(history) - first + 1
        finally:
            archive.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(claim(Path(folder)))
