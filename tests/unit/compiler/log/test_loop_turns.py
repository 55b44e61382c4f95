"""A long compile costs its process no lease and no health check: the clock is simulated, and expressions take time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
import re2

from services.compiler.core.compiler import Compiler
from services.compiler.log import loop_turns
from services.compiler.log.publisher import Publisher
from services.compiler.log.snapshot_store import SnapshotStore
from services.compiler.mesh_state import MeshSettings
from shared.policy import regexes
from shared.records.events import Event
from shared.service.lease import TTL, Lease
from shared.streams.memory import MemoryLogs
from tests.simulation.clock import SimulatedLoop
from tests.unit.compiler import objects
from tests.unit.compiler.log.test_publisher import SCOPE, STREAMS, write
from tests.waiting import eventually

TARGETS, EACH = 600, 12
TAKES = 0.001
"""Seconds for one expression, as measured for those of the attack."""


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedLoop]:
    """A loop whose time goes on while RE2 works."""
    found = SimulatedLoop()
    original = re2.compile

    def slow(pattern: str, options: Any) -> Any:
        found.skip(TAKES)
        return original(pattern, options)

    monkeypatch.setattr(re2, "compile", slow)
    try:
        yield found
    finally:
        found.run_until_complete(found.shutdown_asyncgens())
        found.close()


def bomb(tag: str) -> list[Event]:
    """600 targets of 7,200 expressions in all, each small enough."""
    found: list[Event] = []
    for index in range(TARGETS):
        matches = [{"name": f"m{i}", "pathRegex": f"/{tag}/{index}/{i}/[^/]+"} for i in range(EACH)]
        found.append(objects.route_group("store", f"bomb-{index}", *matches))
        rules = [("HTTPRouteGroup", f"bomb-{index}", list[str]())]
        sources = [("buy", "thief")]
        found.append(objects.target("store", f"bomb-{index}", destination="db", sources=sources, rules=rules))
    return found


class Scene:
    """A compiler with its lease, another that waits for it, and a health check each tenth of a second."""

    def __init__(self, loop: SimulatedLoop, logs: MemoryLogs) -> None:
        self.loop = loop
        self.logs = logs
        self.lost = 0
        self.longest = 0.0
        """Seconds for which a health check had to wait at most."""
        self.versions: dict[int, float] = {}
        """Version → when it was published."""
        self._tasks: list[asyncio.Task[None]] = []

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(self.loop.create_task(work))

    async def begin(self) -> Publisher:
        log = await self.logs.open(STREAMS.leases)
        subject = STREAMS.lease_subject("compiler")
        lease = Lease(log, subject=subject, instance="a")
        publication = Publisher(
            await self.logs.open(STREAMS.events),
            SnapshotStore(await self.logs.open(STREAMS.snapshots), await self.logs.open(STREAMS.keyframes), STREAMS),
            scope=SCOPE,
            compiler=lambda: Compiler(MeshSettings()),
            ready=lambda _name, _ready, _why: None,
            leads=lambda: lease.held,
            wants=lambda wants: lease.campaign() if wants else lease.stand_aside(),
        )

        def changed() -> None:
            self.lost += not lease.held
            publication.wake()

        lease.changed = changed
        other = Lease(log, subject=subject, instance="b")
        self.spawn(lease.run())
        self.spawn(publication.run())
        await eventually(lambda: publication.snapshots.published.version > 0, within=600, what="it publishes")
        other.campaign()
        self.spawn(other.run())
        self.spawn(self._check_health())
        return publication

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _check_health(self) -> None:
        while True:
            began = self.loop.time()
            await asyncio.sleep(0.1)
            self.longest = max(self.longest, self.loop.time() - began - 0.1)


async def bombed(loop: SimulatedLoop, *, at_start: bool = False) -> Scene:
    """A mesh that stands, then the bomb; or (`at_start`) a compiler that begins when all of that stands in the log."""
    logs = MemoryLogs(STREAMS)
    scene = Scene(loop, logs)
    await write(logs, objects.bookstore())
    if at_start:
        await write(logs, bomb("a"), batch=False)
        publication = await scene.begin()
    else:
        publication = await scene.begin()
        await write(logs, bomb("a")[:1000])
        await write(logs, bomb("a")[1000:])
    tip = (await (await logs.open(STREAMS.events)).bounds())[1]
    await eventually(
        lambda: publication.snapshots.published.version >= tip or scene.lost > 0, within=600, what="all is published"
    )
    await scene.end()
    return scene


def test_the_lease_is_kept_while_600_targets_of_7200_expressions_are_compiled(loop: SimulatedLoop) -> None:
    """It was lost six times: the compile took many times the 1.5 seconds of the lease, in one piece."""
    regexes.forget()
    scene = loop.run_until_complete(bombed(loop))
    assert loop.time() > TARGETS * EACH * TAKES, "the expressions took their time"
    assert scene.lost == 0
    assert scene.longest < 0.2


def test_health_checks_are_answered_while_a_compiler_begins_with_all_of_that_in_the_log(loop: SimulatedLoop) -> None:
    regexes.forget()
    scene = loop.run_until_complete(bombed(loop, at_start=True))
    assert loop.time() > TARGETS * EACH * TAKES
    assert scene.longest < 0.2


def test_without_turns_others_wait_longer_than_a_lease(loop: SimulatedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    regexes.forget()
    monkeypatch.setattr(loop_turns.LoopTurns.__init__, "__kwdefaults__", {"seconds": 3600.0})
    scene = loop.run_until_complete(bombed(loop))
    assert scene.longest > TTL
