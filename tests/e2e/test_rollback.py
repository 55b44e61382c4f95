"""Broken policy goes in, 403s begin, `meshlog rollback`, 403s end; under load, on real Envoys."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from cli.arrival.attached_mesh import AttachedMesh, attached
from cli.arrival.wait import arrived
from cli.demo.display import LineDisplay
from cli.demo.scenario import LOAD, MANIFESTS, STORE, Scenario
from cli.embedded import lifecycle
from cli.history.archive_export import export
from cli.history.archive_stream import Archive
from cli.history.log_source import of_archive, opened
from cli.history.pin import unpin
from cli.history.timeline import Timeline, living
from cli.kubernetes.manifest_files import Manifest, read_manifests
from cli.plan.planner import plan
from cli.replay.verification import Replay
from cli.state.mesh_status import pinned
from shared.records.events import ObjectKey
from shared.records.snapshot import RDS, Snapshot
from tests.e2e.command import Command

pytestmark = [pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats, pytest.mark.timeout(180)]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A mesh of this test's own."""
    monkeypatch.setenv(lifecycle.STATE_VARIABLE, str(tmp_path))
    mesh = lifecycle.start(api_port=0, nats_port=0, detached=False, progress=lambda _: None)
    try:
        yield tmp_path
    finally:
        mesh.stop()


@pytest.fixture
async def mesh(state: Path) -> AsyncIterator[AttachedMesh]:
    """The bookstore on it, with its access policy."""
    async with attached() as handle:
        await lifecycle.control_plane_available(handle.api, lambda _: None)
        story = Scenario(handle, LineDisplay(lambda _: None))
        await story.open()
        await story.access()
        yield handle


def broken() -> list[Manifest]:
    """The demo's access policy, with a path that nobody asks for."""
    group = copy.deepcopy(read_manifests(MANIFESTS / "20-access.yaml")[0])
    group["spec"]["matches"][0]["pathRegex"] = "/nobody-asks-for-this"
    return [group]


async def outcomes(mesh: AttachedMesh) -> dict[str, int]:
    """What 20 calls of the buyer see."""
    command = await mesh.start("bookbuyer", "bookbuyer", [*LOAD, f"{STORE}/books-bought", "--requests", "20"])
    output = await command.finish(within=20)
    return json.loads(output.splitlines()[-1])["outcomes"]


def who_may_call(snapshot: Snapshot) -> str:
    """The bookstore's rules, by their hash."""
    server = next(proxy for key, proxy in snapshot.proxies.items() if "/bookstore-v1" in key)
    return snapshot.views[server.workload_class][RDS]["inbound|14001"]


class Churn:
    """Somebody goes on applying Services while others roll back: each is an event that is compiled."""

    def __init__(self, mesh: AttachedMesh) -> None:
        self.applied = 0
        self._mesh = mesh

    async def run(self) -> None:
        while True:
            ports = [{"name": "http", "port": 8000 + self.applied % 100}]
            metadata = {"name": "busy", "namespace": "bookstore"}
            spec = {"ports": ports, "selector": {"app": "bookstore-v1"}}
            await self._mesh.apply([{"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}])
            self.applied += 1
            await asyncio.sleep(0.05)


async def told_by_a_server_side_plan(state: Path) -> None:
    """A pipeline asks the API server and the log of the running mesh: what it admits, and what would then be denied."""
    policy, calls = state / "policy.json", state / "calls.jsonl"
    seen = {"from": "bookbuyer/bookbuyer", "to": "svc:bookstore/bookstore", "port": 14001, "path": "/books-bought"}
    await asyncio.to_thread(calls.write_text, json.dumps(seen))
    await asyncio.to_thread(policy.write_text, json.dumps(broken()[0]))
    argv = ("plan", "-f", str(policy), "--server", "--calls", str(calls), "-o", "json")
    done = await asyncio.to_thread(Command(state), *argv)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert told["refused"] == {}
    assert told["seen"]["denied"] == ["bookbuyer/bookbuyer -> svc:bookstore/bookstore:14001 GET /books-bought"]
    nonsense = broken()[0]
    nonsense["spec"]["matches"][0]["pathRegex"] = "(never closed"
    await asyncio.to_thread(policy.write_text, json.dumps(nonsense))
    refused = await asyncio.to_thread(Command(state), *argv)
    assert refused.returncode == 2, refused.stdout
    assert "refuses it" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


async def test_under_load_a_rollback_ends_the_403s_in_seconds_and_the_log_replays(
    mesh: AttachedMesh, state: Path, record_property: Callable[[str, object], None]
) -> None:
    """A hundred calls a second and twenty changes a second go on all the while; only 200 and 403 are ever seen."""
    assert await outcomes(mesh) == {"200": 20}
    load = await mesh.start("bookbuyer", "bookbuyer", [*LOAD, f"{STORE}/books-bought", "--rate", "100"])
    await load.line(within=10)
    churn = Churn(mesh)
    async with opened("") as source, asyncio.TaskGroup() as tasks:
        timeline = Timeline(source)
        good = await timeline.head()
        predicted = await plan(timeline, (await source.events.bounds())[1], broken(), [])
        before = await timeline.snapshot(good)
        await told_by_a_server_side_plan(state)
        arrival = await mesh.change(put=broken())
        live = await timeline.snapshot(arrival.rollout.version)
        assert {name: live.views[name] for name in predicted.after.views} == predicted.after.views
        changed = {name for name, view in live.views.items() if before.views.get(name) != view}
        assert changed == set(predicted.difference.classes)
        assert "bookbuyer/bookbuyer -> bookstore/bookstore:14001 GET /books-bought" in predicted.calls.denied
        churning = tasks.create_task(churn.run())
        assert (await outcomes(mesh)).get("403") == 20
        assert churn.applied

        events, began = churn.applied, time.time()
        done = await asyncio.to_thread(Command(state), "rollback", str(good), "--why", "403s")
        seconds = time.time() - began
        assert done.returncode == 0, done.stderr
        assert await outcomes(mesh) == {"200": 20}
        assert churn.applied > events
        assert "403s" in await pinned(source)
        churning.cancel()
        now = await timeline.snapshot(await timeline.head())
        assert who_may_call(now) == who_may_call(before) != who_may_call(live)
        busy = living(await timeline.state(now.version))[
            ObjectKey(source.about.cluster, "Service", "bookstore", "busy")
        ]
        assert busy.sequence > good, "what was applied meanwhile is in the log"

        result = json.loads((await load.end_input(within=20)).splitlines()[-1])
        assert set(result["outcomes"]) == {"200", "403"}, result["failures"]
        ended = max(when for when, outcome in result["turns"] if outcome == "200") - began
        assert 0 < ended < 5
        record_property("seconds from the command to the last 403", round(ended, 2))
        record_property("seconds that the command took", round(seconds, 2))
        record_property("calls", result["outcomes"])

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
