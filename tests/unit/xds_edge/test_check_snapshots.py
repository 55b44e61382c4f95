"""An edge that checks its snapshots: what is inconsistent is counted and logged, and served all the same."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest

from services.compiler.core.offline import compile_events
from services.xds_edge.app import App
from services.xds_edge.settings import EdgeSettings
from services.xds_edge.snapshot import disk_cache
from services.xds_edge.snapshot.snapshot_check import MOST_LOGGED
from shared.eventlog.protocol import EMPTY
from shared.records.snapshot import CDS, RDS, Commit, ViewChange
from tests.unit.compiler import objects


def whole() -> Commit:
    return compile_events(objects.bookstore()).keyframe()


def without_routes(held: Commit) -> Commit:
    """The commit after it: no class has a route configuration any more."""
    views = {name: view for name, view in held.views.items() if view is not None}
    dropped = {name: ViewChange(put={}, dropped={RDS: sorted(view.put.get(RDS, {}))}) for name, view in views.items()}
    head = msgspec.structs.replace(held, version=held.version + 1, parent=held.version, resources=[], proxies={})
    return msgspec.structs.replace(head, views={**dropped})


def take(edge: App, commit: Commit) -> None:
    edge.fleet.apply(commit)
    edge._applied(commit)  # pyright: ignore[reportPrivateUsage]


async def test_a_consistent_snapshot_is_not_complained_of() -> None:
    edge = App(EdgeSettings(check_snapshots=True), instance="e")
    take(edge, whole())
    assert edge.counters.inconsistencies == 0


async def test_what_is_inconsistent_is_counted_logged_and_served(caplog: pytest.LogCaptureFixture) -> None:
    edge, held = App(EdgeSettings(check_snapshots=True), instance="e"), whole()
    take(edge, held)
    with caplog.at_level(logging.ERROR):
        take(edge, without_routes(held))
    said = [one.getMessage() for one in caplog.records]
    assert edge.counters.inconsistencies >= len(said) > 0
    assert len(said) <= MOST_LOGGED
    assert all(one.startswith(f"version {held.version + 1} is inconsistent: class ") for one in said)
    assert any("refers to route" in one for one in said)
    assert edge.fleet.version == held.version + 1


async def test_without_the_setting_nothing_is_read() -> None:
    edge, held = App(EdgeSettings(), instance="e"), whole()
    take(edge, held)
    take(edge, without_routes(held))
    assert edge.counters.inconsistencies == 0


async def test_what_comes_from_disk_is_checked_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    held = whole()
    torn = [one for one in held.resources if one.type_url != CDS]
    views = {
        name: ViewChange(put={kind: names for kind, names in view.put.items() if kind != CDS})
        for name, view in held.views.items()
        if view is not None
    }
    broken = Commit(
        format=held.format,
        version=7,
        parent=0,
        epoch=held.epoch,
        build="b",
        resources=torn,
        views={**views},
        proxies=held.proxies,
    )
    state = disk_cache.LastGood(format=disk_cache.FORMAT, checkpoint=EMPTY, keyframe=broken, issuers={}, bundle=None)
    monkeypatch.setattr(disk_cache, "read", lambda _: state)  # pyright: ignore[reportUnknownLambdaType]
    edge = App(EdgeSettings(check_snapshots=True, state_dir=str(tmp_path)), instance="e")
    edge.load()
    assert edge.counters.inconsistencies > 0
