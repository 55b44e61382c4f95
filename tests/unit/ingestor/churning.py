"""Two thousand objects that change, with all that their reporter sees of it, in simulated time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from services.ingestor.core.log_diff import AppliedChange
from services.ingestor.core.object_index import ObjectIndex
from services.ingestor.core.observations import NamespacedName, ObjectUpdated, Projected
from services.ingestor.status.ack_progress import AckProgress
from services.ingestor.status.condition_reporter import ConditionReporter
from services.ingestor.status.conditions import Condition
from services.ingestor.status.reports import ConditionReport, ObjectEvent, Outcome
from services.ingestor.status.status_evaluator import conditions_in
from shared.records.events import ObjectKey
from shared.records.proxy_status import ProxyStatus, TypeStatus
from shared.records.snapshot import CDS, Cause, Commit, Proxy, Quarantined, Resource, ViewChange, record_causes
from tests.simulation.clock import SimulatedLoop

OBJECTS, PROXIES, CLASSES = 2000, 100, 20
SOON = 5.0
"""Seconds after the last change within which every status is right."""
BODY = b'{"metadata":{"name":"x"},"spec":{}}'


class Mesh:
    """A cluster, a log, a compiler and proxies, as far as a reporter knows them; each takes its time."""

    def __init__(self, *, latency: float) -> None:
        """`latency`: seconds of one request to the API server."""
        self.clock = asyncio.get_running_loop().time
        self.latency = latency
        self.index, self.progress = ObjectIndex(), AckProgress(cluster="c1", kinds={"TrafficTarget"})
        self.sequence = self.published = 0
        self.living: dict[NamespacedName, Projected] = {}
        self.sequences: dict[NamespacedName, int] = {}
        self.bad: set[NamespacedName] = set()
        self.dirty: set[NamespacedName] = set()
        self.writes: list[float] = []
        self.requests = self.most_at_once = 0
        self.news: list[ObjectEvent] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.reporter = ConditionReporter(
            self.progress,
            self.index,
            self.write,
            self.tell,
            cluster="c1",
            kinds={"TrafficTarget"},
            mesh_namespace="m",
            now=lambda: f"{self.clock():.3f}",
            clock=self.clock,
        )

    async def write(self, report: ConditionReport) -> Outcome:
        """The API server accepts a status, and its watch reports it."""
        self.writes.append(self.clock())
        self.requests += 1
        self.most_at_once = max(self.most_at_once, self.requests)
        await asyncio.sleep(self.latency)
        self.requests -= 1
        now = self.living[report.object.name]
        status = msgspec.json.encode({"conditions": list(report.conditions)})
        self.living[now.name] = msgspec.structs.replace(now, status=status)
        self.reporter.note(ObjectUpdated(self.living[now.name]))
        return Outcome.WRITTEN

    async def tell(self, news: ObjectEvent) -> Outcome:
        self.news.append(news)
        return Outcome.WRITTEN

    def change(self, number: int, *, bad: bool = False) -> None:
        """A person edits an object; the ingestor appends it to the log."""
        name = NamespacedName("shop", f"t{number}")
        held = self.living.get(name)
        self.sequence += 1
        item = Projected(
            kind="TrafficTarget",
            name=name,
            uid=f"u{number}",
            resource_version=str(self.sequence),
            api_version="access.smi-spec.io/v1alpha3",
            body=BODY,
            digest=f"d{self.sequence}",
            generation=1 if held is None else held.generation + 1,
            status=b"" if held is None else held.status,
        )
        self.living[name] = item
        self.reporter.note(ObjectUpdated(item))
        applied = AppliedChange(item, 0)
        self.index.enter(applied)
        self.index.appended(applied, self.sequence)
        self.index.commit_round()
        self.sequences[name] = self.sequence
        (self.bad.add if bad else self.bad.discard)(name)
        self.dirty.add(name)

    async def compile(self, *, every: float = 0.2) -> None:
        """Publish what has changed, and let each proxy that it concerns acknowledge it a little later."""
        while True:
            await asyncio.sleep(every)
            if self.sequence == self.published:
                self.progress.take_progress(self.sequence)
                continue
            commit, classes = self._commit()
            self.progress.take_commit(commit)
            self.published = commit.version
            self.reporter.progress_changed()
            version = commit.version
            asyncio.get_running_loop().call_later(0.15, lambda v=version, c=classes: self._acknowledge(v, c))

    def _commit(self) -> tuple[Commit, set[int]]:
        resources: list[Resource] = []
        views: dict[str, ViewChange | None] = {}
        retired: list[tuple[str, str, str]] = []
        classes: set[int] = set()
        for name in sorted(self.dirty):
            number = int(name.name[1:])
            at = number % CLASSES
            classes.add(at)
            key = ObjectKey("c1", "TrafficTarget", name.namespace, name.name)
            cause = Cause(key=key, uid=f"u{number}", resource_version="", sequence=self.sequences[name])
            digest = f"h{self.sequences[name]}"
            resources.append(
                Resource(type_url=CDS, name=name.name, hash=digest, body=b"", recorded=record_causes([cause]))
            )
            view = views.setdefault(f"k{at}", ViewChange(put={CDS: {}}))
            assert view is not None
            view.put[CDS][name.name] = digest
        self.dirty.clear()
        first = self.published == 0
        proxies = {
            f"c1/shop/p{number}": Proxy("c1", "shop", f"p{number}", "u", "web", f"k{number % CLASSES}")
            for number in range(PROXIES if first else 0)
        }
        found = Commit(
            format=1,
            version=self.sequence,
            parent=self.published,
            epoch="e",
            build="b",
            resources=resources,
            retired=retired,
            views=views,
            proxies=dict(proxies),
            quarantine=[
                Quarantined(ObjectKey("c1", "TrafficTarget", name.namespace, name.name), "smi/x", "is wrong")
                for name in sorted(self.bad)
            ],
            mesh_namespaces=["shop"] if first else None,
        )
        return found, classes

    def _acknowledge(self, version: int, classes: set[int]) -> None:
        """Only the concerned proxies acknowledge: the others keep their watermark."""
        for number in range(PROXIES):
            if number % CLASSES in classes:
                types = {CDS: TypeStatus(sent=version, acked=version)}
                self.progress.take_status(
                    ProxyStatus("c1", "shop", f"p{number}", "u", "web", "e", connected=True, since=0, types=types)
                )
        self.reporter.progress_changed()

    def disconnect(self, number: int) -> None:
        """A proxy is gone."""
        self.progress.take_status(
            ProxyStatus("c1", "shop", f"p{number}", "u", "web", "e", connected=False, since=0, types={})
        )
        self.reporter.progress_changed()

    def wrong(self) -> list[str]:
        """Returns the objects whose status is wrong."""
        return [f"{name}: {found}" for name in self.living if (found := self._wrong(name))]

    def _wrong(self, name: NamespacedName) -> str:
        item = self.living[name]
        told: dict[str, Condition] = {one["type"]: one for one in conditions_in(item.status)}
        if any(one.get("observedGeneration") != item.generation for one in told.values()) or not told:
            return f"generation {item.generation}, {told}"
        status = {kind: (one["status"], one["reason"]) for kind, one in told.items()}
        if name in self.bad:
            wanted = {"Accepted": ("False", "X"), "Programmed": ("False", "NotAccepted")}
        else:
            wanted = {"Accepted": ("True", "Accepted"), "Programmed": ("True", "Programmed")}
        every = PROXIES // CLASSES
        count = name in self.bad or told["Programmed"]["message"] == f"on {every} of {every} proxies"
        return "" if status == wanted and count else f"{status}, {told['Programmed']['message']}"


def busiest_second(moments: list[float]) -> int:
    """The most of these moments that fall into one second."""
    found, start = 0, 0
    for end, moment in enumerate(moments):
        while moments[start] <= moment - 1.0:
            start += 1
        found = max(found, end - start + 1)
    return found


def simulated(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop = SimulatedLoop()
    try:
        loop.run_until_complete(story())
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    finally:
        loop.close()


def running(mesh: Mesh) -> None:
    for part in (mesh.compile(), mesh.reporter.run(), mesh.reporter.run_events()):
        mesh.tasks.append(asyncio.get_running_loop().create_task(part))


async def churn(mesh: Mesh, *, seconds: float, rate: float, chance: random.Random, most: int = OBJECTS) -> None:
    """Edits of random objects; one in fifty makes the object wrong."""
    until = mesh.clock() + seconds
    while mesh.clock() < until:
        mesh.change(chance.randrange(most), bad=chance.random() < 0.02)
        await asyncio.sleep(1 / rate)
