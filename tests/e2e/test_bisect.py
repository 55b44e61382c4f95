"""A bisection that runs each version's policy on a devcluster finds the change after which real calls failed."""

from __future__ import annotations

import copy
import shutil
import sys
from pathlib import Path

import pytest

from cli.demo.scenario import MANIFESTS
from cli.kubernetes.manifest_files import read_manifests
from cli.plan.proposal import propose
from shared.records.events import Event
from tests.e2e.command import Command
from tests.property.history.worlds import ABOUT, exported, recorded
from tests.unit.compiler import objects

pytestmark = [pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats, pytest.mark.long, pytest.mark.timeout(400)]

CALLS = """
import asyncio, json, sys
from cli.arrival.attached_mesh import attached
from cli.embedded import lifecycle as embedded
from cli.demo.scenario import LOAD, STORE

async def call():
    async with attached() as mesh:
        command = await mesh.start("bookbuyer", "bookbuyer", [*LOAD, f"{STORE}/books-bought", "--requests", "20"])
        return json.loads((await command.finish(within=20)).splitlines()[-1])["outcomes"]

sys.exit(asyncio.run(call()) != {"200": 20})
"""


def history() -> tuple[list[list[Event]], int]:
    """The bookstore's access policy, a change that matters not, one that breaks it, and more; which one breaks it."""
    policy = read_manifests(MANIFESTS / "20-access.yaml")
    good = propose(ABOUT, {}, policy, []).events
    broken = copy.deepcopy(policy[0])
    broken["spec"]["matches"][0]["pathRegex"] = "/nobody-asks-for-this"
    namespaces = [objects.namespace(name) for name in ("bookstore", "bookbuyer", "bookthief")]
    store = [
        objects.pod("bookstore", "store", account="bookstore-v1", ip="10.1.1.1", labels={"app": "bookstore"}),
        objects.service("bookstore", "bookstore", ip="10.96.0.9", selector={"app": "bookstore"}),
    ]
    pod = objects.pod("bookstore", "other", account="other", ip="10.1.1.2", labels={"app": "other"})
    gone = objects.deleted("Pod", "bookstore", "other")
    turning = propose(ABOUT, {}, [broken], []).events
    steps = [[*namespaces, *store, *good], [pod], [gone], turning, [pod]]
    before = sum(map(len, steps[:3]))
    return steps, before + len(turning)


async def test_the_change_that_broke_real_calls_is_found(tmp_path: Path) -> None:
    steps, turned = history()
    archive = await exported(await recorded(steps), tmp_path / "log")
    archive.close()
    workloads = tmp_path / "workloads"
    workloads.mkdir()
    for name in ("00-mesh.yaml", "10-workloads.yaml"):
        shutil.copy(MANIFESTS / name, workloads)
    done = Command(tmp_path / "unused")(
        *("bisect", "--good", "HEAD~4", "--bad", "HEAD", "--log", str(tmp_path / "log")),
        *("--devcluster", str(workloads), "--", sys.executable, "-c", CALLS),
        within=300,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.startswith(f"{turned} is the first bad version"), done.stdout + done.stderr
