"""`HEAD~n` passes over pins, so that a second rollback goes further back and never to what the first took back."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path

import pytest

from cli.__main__ import main
from cli.history.log_source import LogSource
from cli.history.pin import going_back
from cli.history.timeline import Timeline
from cli.history.versions import resolve
from shared.records.events import Event
from shared.records.pins import PINNED_KINDS, Pin, pin_of
from tests.property.history.test_pinning import pin_event
from tests.property.history.worlds import exported, recorded
from tests.unit.compiler import objects

START = objects.bookstore()
_GROUP = next(event for event in START if event.kind == "HTTPRouteGroup")


def allows(path: str) -> Event:
    return objects.route_group(_GROUP.namespace, _GROUP.name, {"name": "buy", "pathRegex": path, "methods": ["GET"]})


def pinned(version: int, history: list[list[Event]]) -> Event:
    """The pin to the version that holds all of a history."""
    newest = {event.key: (place, event) for place, event in enumerate(itertools.chain.from_iterable(history), 1)}
    return pin_event(pin_of(version, "", [found for found in newest.values() if found[1].kind in PINNED_KINDS]))


FIRST, GOOD, BAD = [START], [START, [allows("/good")]], [START, [allows("/good")], [allows("/bad")]]
V0, V1, V2 = len(START), len(START) + 1, len(START) + 2
PIN = [*BAD, [pinned(V1, GOOD)]]


async def at(history: list[list[Event]], *names: str) -> list[int]:
    timeline = Timeline(await recorded(history))
    return [await resolve(timeline, name) for name in names]


async def test_back_from_a_pinned_mesh_is_the_version_before_the_one_that_the_pin_names() -> None:
    assert await at(BAD, "HEAD", "HEAD~1", "HEAD~2") == [V2, V1, V0]
    assert await at(PIN, "HEAD", "HEAD~1") == [V2 + 1, V0]


async def test_what_was_published_under_a_pin_counts() -> None:
    moved = [*PIN, [objects.deleted("Pod", "buy", "thief-0")]]
    assert await at(moved, "HEAD", "HEAD~1", "HEAD~2") == [V2 + 2, V2 + 1, V0]


async def test_the_end_of_a_pin_is_passed_over_with_what_came_meanwhile() -> None:
    ended = [*PIN, [objects.deleted("Pod", "buy", "thief-0")], [pin_event(None)]]
    assert await at(ended, "HEAD", "HEAD~1", "HEAD~2") == [V2 + 3, V1, V0]


async def test_policy_that_was_recorded_under_a_pin_makes_its_end_a_version() -> None:
    recorded_meanwhile = [*PIN, [allows("/better")], [pin_event(None)]]
    assert await at(recorded_meanwhile, "HEAD~1", "HEAD~2") == [V2, V1]


async def test_a_pin_upon_a_pin_goes_further_back() -> None:
    twice = [*PIN, [pinned(V0, FIRST)]]
    with pytest.raises(Exception, match="fewer than 1"):
        await at(twice, "HEAD~1")


async def test_a_pin_that_nobody_can_read_is_none() -> None:
    assert await at([*BAD, [pin_event(Pin(version=3, packed="?"))]], "HEAD~1") == [V2]


async def test_what_goes_back_is_told_before_it_does() -> None:
    removed = objects.deleted("TrafficTarget", *_target())
    source = await recorded([*BAD, [removed], [objects.route_group("store", "new", {"name": "x", "pathRegex": "/x"})]])
    found = dict(await going_back(Timeline(source), V1))
    assert found == {
        _GROUP.key: f"goes back to event {V1}",
        removed.key: f"comes back as of event {_applied(removed)}",
        next(key for key in found if key.name == "new"): "goes",
    }
    assert not await going_back(Timeline(source), V2 + 2)


def test_a_dry_run_changes_nothing_and_prints_what_would_go_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def make() -> LogSource:
        source = await recorded(BAD)
        (await exported(source, tmp_path / "log")).close()
        return source

    source = asyncio.run(make())
    words = ["rollback", "HEAD~1", "--dry-run", "--log", str(tmp_path / "log")]
    assert main([*words, "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"version": V1, "objects": [{"object": str(_GROUP.key), "change": f"goes back to event {V1}"}]}
    assert main(words) == 0
    assert f"to the policy of version {V1}, 1 objects would go back" in capsys.readouterr().out
    assert asyncio.run(Timeline(source).head()) == V2


def _target() -> tuple[str, str]:
    one = next(event for event in START if event.kind == "TrafficTarget")
    return one.namespace, one.name


def _applied(removed: Event) -> int:
    return next(place for place, event in enumerate(START, 1) if event.key == removed.key)
