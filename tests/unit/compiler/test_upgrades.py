"""Compilers of two builds during a rolling upgrade: what is published, and what proxies are sent of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

import msgspec
import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster

from services.compiler.core.compiler import Compiler
from services.compiler.core.offline import compile_events
from services.compiler.ir import Rendered
from services.compiler.log.publisher import Publisher
from services.compiler.log.snapshot_store import SnapshotStore
from services.compiler.mesh_state import MeshSettings, MeshState
from services.compiler.render.packing import rendered
from services.compiler.views.sidecar import service_cluster
from services.xds_edge.snapshot.fleet import Fleet
from services.xds_edge.xds.ads import AdsSession
from shared.eventlog.protocol import EMPTY, Draft
from shared.policy.object_name import ObjectName
from shared.records import chunked_payload, events
from shared.records.events import Event
from shared.records.snapshot import CDS, EDS, FORMAT, RDS, TYPE_URLS, Commit, decode_commit, encode_commit
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.unit.compiler import objects
from tests.unit.xds_edge.proxy_model import ProxyModel
from tests.waiting import eventually

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope(objects.CLUSTER)
OLD, NEW = "0.1.0", "0.2.0"


class Next(MeshSettings, frozen=True):
    """The settings of the next build, by which its queries know it."""


@pytest.fixture
def renders_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next build renders one resource otherwise: the cluster of the database."""
    former = service_cluster.function

    def newer(mesh: MeshState, service: ObjectName, number: int) -> Rendered:
        found = former(mesh, service, number)
        if not isinstance(mesh.settings, Next) or service.name != "db":
            return found
        cluster = Cluster.FromString(found.body)
        cluster.alt_stat_name = "the database"
        return rendered(found.name, cluster)

    monkeypatch.setattr(service_cluster, "function", newer)


class Mesh3:
    """A log, the compilers of a mesh, one edge and its proxies."""

    def __init__(self) -> None:
        self.logs = MemoryLogs(STREAMS)
        self.leader = ""
        self.publications: dict[str, Publisher] = {}
        self.fleet = Fleet()
        self.proxies: dict[str, ProxyModel] = {}
        self.versions: list[int] = []
        self.builds: list[str] = []
        self.rendered: set[tuple[str, str]] = set()
        """Type and name of the bodies in the newest commit."""
        self._read = 0

    async def write(self, written: Sequence[Event]) -> None:
        log = self.logs.stream(STREAMS.events)
        tip = await log.tip(SCOPE)
        drafts = [Draft(event.subject(STREAMS), events.encode(event)) for event in written]
        await log.append(drafts, scope=SCOPE, after=tip, epoch="" if tip != EMPTY else "e1")

    @contextlib.asynccontextmanager
    async def compiler(self, build: str) -> AsyncGenerator[Publisher]:
        """A compiler of one build, that leads when it is its turn."""
        settings = MeshSettings() if build == OLD else Next()
        ready = asyncio.Event()
        publication = self.publications[build] = Publisher(
            self.logs.stream(STREAMS.events),
            SnapshotStore(self.logs.stream(STREAMS.snapshots), self.logs.stream(STREAMS.keyframes), STREAMS),
            scope=SCOPE,
            compiler=lambda: Compiler(settings, build=build),
            ready=lambda _name, is_ready, _why: ready.set() if is_ready else None,
            leads=lambda: self.leader == build,
        )
        task = asyncio.create_task(publication.run())
        try:
            await asyncio.wait_for(ready.wait(), 5)
            yield publication
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def leads(self, build: str) -> None:
        """The lease moves, and the new leader has looked what there is to say."""
        self.leader = build
        for publication in self.publications.values():
            publication.wake()
        newest = self.publications[build]
        await eventually(lambda: newest.snapshots.published.version, within=5, what=f"{build} knows what is published")
        await asyncio.sleep(0.05)  # what it would say at once

    async def published(self, version: int) -> None:
        async def probe() -> bool:
            last = await self.logs.stream(STREAMS.snapshots).last(STREAMS.snapshot_subject)
            return last is not None and chunked_payload.version_of(last) == version

        await eventually(probe, within=5, what=f"version {version} is published")

    async def sent(self) -> set[tuple[str, str]]:
        """Type and name of all that proxies are sent now, once the edge has read what is published."""
        assembler = chunked_payload.Assembler()
        log = self.logs.stream(STREAMS.snapshots)
        async for record in log.read(start=self._read + 1, subjects=STREAMS.snapshot_subject):
            self._read = record.sequence
            if (payload := assembler.feed(record)) is not None:
                commit = decode_commit(payload)
                self.fleet.apply(commit)
                self.versions.append(commit.version)
                self.builds.append(commit.build)
                self.rendered = {(one.type_url, one.name) for one in commit.resources}
        found: set[tuple[str, str]] = set()
        for key, proxy in self.fleet.snapshot.proxies.items():
            model = self.proxies.get(key)
            view = self.fleet.view(proxy.workload_class)
            assert view is not None
            if model is None:
                model = self.proxies[key] = ProxyModel(AdsSession())
                for type_url in TYPE_URLS:
                    model.ask(type_url, view.of(type_url).resources if type_url in (EDS, RDS) else ())
            before = len(model.log)
            model.session.show(view, self.fleet.version)
            model.settle()
            found |= {(offer.type_url, name) for offer in model.log[before:] for name, _ in offer.put}
        return found


def moved(address: int) -> Event:
    """An endpoint changes its address: the next event, whatever is upgraded."""
    return objects.answered_at(8080 + address)


@pytest.fixture
def mesh() -> Mesh3:
    return Mesh3()


DATABASE = (CDS, "outbound|store/db|5432")
"""Type and name of what the next build renders otherwise."""


async def test_a_newer_build_that_renders_the_same_publishes_and_sends_nothing(mesh: Mesh3) -> None:
    written = objects.bookstore()
    await mesh.write(written)
    mesh.leader = OLD
    async with mesh.compiler(OLD):
        await mesh.published(len(written))
        assert await mesh.sent()
        async with mesh.compiler(NEW) as newer:
            for build in (NEW, OLD, NEW):
                await mesh.leads(build)
            assert await mesh.sent() == set()
            await mesh.write([objects.service("outside", "x", ip="10.96.7.7")])
            nothing = len(written) + 1
            await eventually(lambda: newer.compiler.version == nothing, within=5, what="an event that changes nothing")
            await mesh.write([moved(77)])
            await mesh.published(len(written) + 2)
            sent = await mesh.sent()
            assert {kind for kind, _ in sent} == {EDS}
            assert mesh.rendered == sent, "a body that stands already is not published again"
    assert (mesh.versions, mesh.builds) == ([len(written), len(written) + 2], [OLD, NEW])


@pytest.mark.usefixtures("renders_otherwise")
async def test_a_newer_build_sends_again_what_it_renders_otherwise_and_nothing_else(mesh: Mesh3) -> None:
    written = objects.bookstore()
    await mesh.write(written)
    mesh.leader = OLD
    async with mesh.compiler(OLD):
        await mesh.published(len(written))
        await mesh.sent()
    mesh.leader = NEW
    async with mesh.compiler(NEW):
        await mesh.leads(NEW)
        assert await mesh.sent() == set(), "a version stands once: what differs waits for the next event"
        await mesh.write([moved(77)])
        await mesh.published(len(written) + 1)
        sent = await mesh.sent()
    assert DATABASE in sent
    assert mesh.rendered == sent, "a body that stands already is not published again"
    assert {kind for kind, _ in sent - {DATABASE}} == {EDS}


@pytest.mark.usefixtures("renders_otherwise")
async def test_while_the_lease_goes_to_and_fro_between_builds_versions_grow_and_each_event_is_published_once(
    mesh: Mesh3,
) -> None:
    """Rendering otherwise is no news by itself: two builds do not answer each other."""
    written = objects.bookstore()
    await mesh.write(written)
    mesh.leader = OLD
    async with mesh.compiler(OLD), mesh.compiler(NEW):
        await mesh.published(len(written))
        await mesh.sent()
        for turn, build in enumerate((NEW, OLD, NEW, OLD), 1):
            for other in (OLD, NEW, build):
                await mesh.leads(other)
            assert await mesh.sent() == set()
            await mesh.write([moved(70 + turn)])
            await mesh.published(len(written) + turn)
            sent = await mesh.sent()
            assert {kind for kind, _ in sent - {DATABASE}} == {EDS}
    assert mesh.versions == list(range(len(written), len(written) + 5))
    assert mesh.builds == [OLD, NEW, OLD, NEW, OLD]


async def test_a_build_before_commits_of_a_newer_format_says_all_anew_at_a_higher_version(mesh: Mesh3) -> None:
    """Somebody goes back to the old build: a version that the newer one published is never said a second time."""
    written = objects.bookstore()
    await mesh.write([*written, moved(77)])
    version = len(written) + 1
    log = mesh.logs.stream(STREAMS.snapshots)
    told = Commit(format=FORMAT, version=version, parent=0, epoch="e1", build=NEW)
    payload = msgspec.msgpack.encode({**msgspec.msgpack.decode(encode_commit(told)), "format": FORMAT + 1, "views": 7})
    drafts = chunked_payload.split(payload, STREAMS.snapshot_subject, version=version)
    await log.append(drafts, scope=STREAMS.snapshot_subject, after=EMPTY, epoch="s1")
    mesh.leader = OLD
    async with mesh.compiler(OLD) as compiler:
        assert (await log.bounds())[1] == 1, "that version stands already"
        await mesh.write([moved(78)])
        await mesh.published(version + 1)
        assert compiler.snapshots.published.build == OLD
    assembler, whole = chunked_payload.Assembler(), None
    async for record in log.read(start=2, subjects=STREAMS.snapshot_subject):
        payload = assembler.feed(record)
        whole = decode_commit(payload) if payload is not None else whole
    assert whole is not None
    assert (whole.version, whole.parent) == (version + 1, 0)
    expected = compile_events([*written, moved(78)])
    assert {(one.type_url, one.name, one.hash) for one in whole.resources} == set(expected.resources)
