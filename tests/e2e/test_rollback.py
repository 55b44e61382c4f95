"""Broken policy goes in, 403s begin, `meshlog rollback`, 403s end; under load, on real Envoys."""

from __future__ import annotations

import copy
import io
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cli import embedded
from cli.api import Manifest, read_manifests
from cli.demo.story import LOAD, MANIFESTS, STORE, Story
from cli.demo.view import Lines
from cli.history.arriving import arrived
from cli.history.exporting import export
from cli.history.filelog import Archive
from cli.history.pinning import pin_to, unpin
from cli.history.planning import plan
from cli.history.replaying import Replay
from cli.history.source import of_archive, opened
from cli.history.standing import pinned
from cli.history.timeline import Timeline
from cli.mesh import Mesh

pytestmark = [pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats, pytest.mark.timeout(180)]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A mesh of this test's own."""
    monkeypatch.setenv(embedded.STATE_VARIABLE, str(tmp_path))
    mesh = embedded.start(api_port=0, nats_port=0, detached=False, progress=lambda _: None)
    try:
        yield tmp_path
    finally:
        mesh.stop()


@pytest.fixture
async def mesh(state: Path) -> AsyncIterator[Mesh]:
    """The bookstore on it, with its access policy."""
    async with embedded.attached() as handle:
        await embedded.control_plane_available(handle.api, lambda _: None)
        story = Story(handle, Lines(io.StringIO()))
        await story.open()
        await story.access()
        yield handle


def broken() -> list[Manifest]:
    """The demo's access policy, with a path that nobody asks for."""
    group = copy.deepcopy(read_manifests(MANIFESTS / "20-access.yaml")[0])
    group["spec"]["matches"][0]["pathRegex"] = "/nobody-asks-for-this"
    return [group]


async def outcomes(mesh: Mesh) -> dict[str, int]:
    """What 20 calls of the buyer see."""
    command = await mesh.start("bookbuyer", "bookbuyer", [*LOAD, f"{STORE}/books-bought", "--requests", "20"])
    output = await command.finish(within=20)
    return json.loads(output.splitlines()[-1])["outcomes"]


async def test_a_rollback_ends_the_403s_in_seconds_and_the_log_replays(mesh: Mesh, state: Path) -> None:
    assert await outcomes(mesh) == {"200": 20}
    async with opened("") as source:
        timeline = Timeline(source)
        good = await timeline.head()
        predicted = await plan(timeline, (await source.events.bounds())[1], broken(), [])
        arrival = await mesh.change(put=broken())
        live = await timeline.snapshot(arrival.rollout.version)
        assert live.views == predicted.after.views
        assert "bookbuyer/bookbuyer -> bookstore/bookstore:14001 GET /books-bought" in predicted.calls.denied
        assert (await outcomes(mesh)).get("403") == 20

        began = time.monotonic()
        sequence, _ = await pin_to(timeline, good, "403s")
        back = await arrived(source, sequence, within=20)
        seconds = time.monotonic() - began
        assert back is not None
        assert back.complete
        assert await outcomes(mesh) == {"200": 20}
        assert seconds < 5
        assert "403s" in await pinned(source)
        assert (await timeline.snapshot(back.version)).views == (await timeline.snapshot(good)).views

        again = await arrived(source, await unpin(source), within=20)
        assert again is not None
        assert again.complete
        assert (await outcomes(mesh)).get("403") == 20
        assert not await pinned(source)

        path = state / "exported"
        await export(source, path)
    archive = Archive(path)
    try:
        outcome = await Replay(of_archive(archive), verify=True).run()
    finally:
        archive.close()
    assert outcome.difference is None
    assert not outcome.broken
    assert outcome.versions > 10
