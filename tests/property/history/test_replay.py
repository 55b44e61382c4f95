"""Byte-identical replay: random meshes, recorded by a compiler with its own batching, rebuilt from a file."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.history.archive_stream import Archive
from cli.history.log_source import of_archive
from cli.history.timeline import Timeline
from cli.replay.verification import Replay
from services.compiler.core.offline import compile_events
from services.compiler.envoy_names import BLACKHOLE
from services.compiler.render import clusters
from shared.eventlog.memory import MemoryLog
from shared.records.events import Event
from shared.records.snapshot import CDS
from tests.property.compiler.worlds import flat, histories, standing
from tests.property.history.worlds import contents, exported, recorded, source_of
from tests.simulation.clock import SimulatedLoop
from tests.simulation.run import Outcome, Simulation
from tests.unit.compiler import objects

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
            glanced = await timeline.single_proxy_snapshot(version, key)
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


def record_to(path: str) -> None:
    """Write the log of a fixed history, with batches of chance, as whatever process this is."""
    chance = random.Random(7)  # noqa: S311 (a seed that repeats the history)
    history = [*standing(), *chance.choices(bookstore_changes(), k=30)]

    async def make() -> None:
        source = await recorded([[event] for event in history], together=[3, 1, 2], keyframe_every=5)
        (await exported(source, Path(path), state_every=20)).close()

    asyncio.run(make())


def bookstore_changes() -> list[Event]:
    """Changes of the mesh that `standing` is."""
    target = next(event for event in standing() if event.kind == "TrafficTarget")
    split = next(event for event in standing() if event.kind == "TrafficSplit")
    return [
        objects.deleted(target.kind, target.namespace, target.name),
        target,
        objects.deleted(split.kind, split.namespace, split.name),
        split,
        objects.mesh_config(permissive=True),
        objects.mesh_config(egress=True),
        objects.route_group("red", "one", {"name": "get", "pathRegex": "/other"}),
    ]


def test_a_log_recorded_under_one_hash_seed_replays_under_others(tmp_path: Path) -> None:
    """Two processes, as on two machines: sets and dictionaries are ordered otherwise, every hash is the same."""
    for recorder, replayer in (("1", "2"), ("3", "4")):
        path = str(tmp_path / f"log-{recorder}")
        script = f"from tests.property.history.test_replay import record_to; record_to({path!r})"
        for seed, argv in ((recorder, ["-c", script]), (replayer, ["-m", "cli", "replay", path, "--verify"])):
            done = subprocess.run(
                [sys.executable, *argv],
                env={**os.environ, "PYTHONHASHSEED": seed},
                cwd=Path(__file__).resolve().parents[3],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
    assert "versions are what was published" in done.stdout


async def test_a_compiler_that_renders_otherwise_is_found_with_version_and_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first version that holds a cluster with limits is the first that differs, and the query is named."""
    history = [[event] for event in objects.bookstore()]
    source = await recorded(history)
    archive = await exported(source, tmp_path / "log")
    timeline = Timeline(source)
    commits = [found.commit async for found in timeline.commits()]
    first = min(
        commit.version
        for commit in commits
        if any(one.type_url == CDS and one.name != BLACKHOLE for one in commit.resources)
    )
    unbounded = clusters.unbounded()
    unbounded.thresholds[0].max_connections.value = 7
    monkeypatch.setattr(clusters, "unbounded", lambda: unbounded)
    outcome = await Replay(of_archive(archive), verify=True).run()
    archive.close()
    found = outcome.difference
    assert found is not None
    assert found.version == first
    assert "made by query" in found.what
    assert found.what.startswith("Cluster ")
    assert found.published != found.replayed


async def test_what_was_compiled_from_lost_events_is_no_bug_of_the_compiler(tmp_path: Path) -> None:
    """A hole in the log is told as one; what was made from the event that is lost is not called a difference."""
    source = await recorded([[event] for event in objects.bookstore()])
    assert isinstance(source.events, MemoryLog)
    lost = next(number for number, event in enumerate(objects.bookstore(), 1) if event.kind == "TrafficTarget")
    source.events.lose(lost)
    archive = await exported(source, tmp_path / "log")
    outcome = await Replay(of_archive(archive), verify=True).run()
    archive.close()
    assert outcome.difference is None
    assert f"record {lost + 1}" in outcome.broken
    assert outcome.forgotten


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_logs_recorded_under_faults_replay(seed: int, tmp_path: Path) -> None:
    """Crashes, partitions, two leaders at once: whatever the compilers published is what the events compile to."""
    assert_replays(seed, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 60))
def test_logs_recorded_under_more_faults_replay(seed: int, tmp_path: Path) -> None:
    assert_replays(seed, tmp_path)


def assert_replays(seed: int, tmp_path: Path) -> None:
    script = (
        "import sys; from tests.property.history.test_replay import record_faults; "
        f"record_faults({seed}, {str(tmp_path / 'log')!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    archive = Archive(tmp_path / "log")
    outcome = asyncio.run(Replay(of_archive(archive), verify=True).run())
    archive.close()
    assert outcome.difference is None
    # Where the simulation damaged the log for good, that is said, and nothing else.
    assert outcome.versions or outcome.broken or outcome.forgotten


def record_faults(seed: int, path: str) -> None:
    """Run one seed of the simulation, and write the log that it leaves behind."""
    logging.disable(logging.CRITICAL)
    loop = SimulatedLoop()

    async def run() -> None:
        simulation = Simulation(Outcome(seed), lambda _: None)
        await simulation.run()
        source = await source_of(simulation.logs)
        (await exported(source, Path(path))).close()

    loop.run_until_complete(run())
