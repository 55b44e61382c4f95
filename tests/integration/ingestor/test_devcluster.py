"""The whole ingestor in front of the devcluster's API server: every kind, in one log, by the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec import structs

from deploy.devcluster.apiserver import ApiServer
from services.ingestor.app import App
from services.ingestor.core.kinds import REPORTED, kinds
from services.ingestor.kubernetes.client import KubernetesSource
from services.ingestor.kubernetes.status_client import StatusWriter
from services.ingestor.settings import IngestorSettings
from services.ingestor.status.ack_progress import AckProgress
from services.ingestor.status.condition_reporter import ConditionReporter
from services.ingestor.status.reports import ReportPace
from shared import projected_objects
from shared.eventlog.chain import ChainVerifier
from shared.eventlog.memory import MemoryLog
from shared.records import events
from shared.records.events import ObjectKey
from shared.records.snapshot import Commit, Quarantined
from shared.records.subjects import Streams
from shared.service.background_task import background_task
from tests.waiting import eventually

STREAMS = Streams()
NOW = "2026-01-01T00:00:00Z"
CRDS = Path(__file__).parents[3] / "deploy" / "crds"


class World:
    """An API server, a log, and what an ingestor made of it."""

    def __init__(self, api: ApiServer, kubeconfig: Path) -> None:
        self.api = api
        self.kubeconfig = kubeconfig
        self.log = MemoryLog()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.api.bound[0][1]}"

    @asynccontextmanager
    async def ingestor(self, **changes: Any) -> AsyncGenerator[App]:
        """One, running."""
        self.kubeconfig.write_text(self.api.kubeconfig(self.url))
        settings = IngestorSettings(cluster="c1", kubeconfig=str(self.kubeconfig), **changes)
        source = await KubernetesSource.connect(settings.kubeconfig)
        made = App(source, self.log, settings)
        parts = [made.writer.run(), made.issuer.run(), *(runner.run() for runner in made.runners.values())]
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await source.close()
            failures = [one for one in results if isinstance(one, Exception)]
            assert not failures

    async def history(self) -> list[events.Event]:
        verifier, found = ChainVerifier(), list[events.Event]()
        async for record in self.log.read():
            verifier.fold(record)
            found.append(events.decode(record.payload))
        return found

    async def says(self, condition: Callable[[dict[str, events.Event]], bool], what: str) -> None:
        """Wait until the newest event of each object satisfies a condition."""

        async def probe() -> bool:
            return condition({str(event.key): event for event in await self.history()})

        await eventually(probe, within=10.0, what=what)

    async def install_crds(self) -> None:
        for path in sorted(CRDS.glob("*.yaml")):
            for document in yaml.safe_load_all(path.read_text()):
                await self.api.cluster.create("customresourcedefinitions.apiextensions.k8s.io", document)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    api = ApiServer(addresses=[("127.0.0.1", 0)], window=20, bookmark_seconds=0.2)
    await api.start()
    yield World(api, tmp_path / "kubeconfig")
    await api.stop()


def settled(ingestor: App) -> Callable[[], bool]:
    return lambda: not ingestor.unready()


SPLIT: dict[str, Any] = {
    "apiVersion": "split.smi-spec.io/v1alpha2",
    "kind": "TrafficSplit",
    "metadata": {"name": "shop", "namespace": "default"},
    "spec": {"service": "shop", "backends": [{"service": "v1", "weight": 1}]},
}


async def test_every_kind_arrives_and_the_ingestor_says_that_it_is_ready(world: World) -> None:
    cluster = world.api.cluster
    await world.install_crds()
    await cluster.create("serviceaccounts", {"metadata": {"name": "web", "namespace": "default"}})
    await cluster.create(
        "services",
        {
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"ports": [{"port": 80}], "clusterIP": "10.96.0.9"},
        },
    )
    await cluster.create("trafficsplits.split.smi-spec.io", SPLIT)
    async with world.ingestor() as ingestor:
        await eventually(settled(ingestor), within=10.0, what="it is ready")
    newest = {str(event.key): event for event in await world.history()}
    assert {"Namespace default", "ServiceAccount default/web", "Service default/web", "TokenIssuer cluster"} <= set(
        newest
    )
    split = newest["TrafficSplit default/shop"]
    assert split.object is not None
    assert msgspec.json.decode(split.object, type=projected_objects.PolicyObject).spec == SPLIT["spec"]
    assert split.origin.manager == "devcluster"
    issuer = newest["TokenIssuer cluster"]
    assert issuer.object is not None
    assert msgspec.json.decode(issuer.object, type=projected_objects.TokenIssuer).jwks["keys"]


async def test_a_restart_in_front_of_an_unchanged_cluster_writes_nothing(world: World) -> None:
    await world.install_crds()
    async with world.ingestor() as ingestor:
        await eventually(settled(ingestor), within=10.0, what="it is ready")
    before = await world.log.bounds()
    async with world.ingestor() as ingestor:
        await eventually(settled(ingestor), within=10.0, what="it is ready again")
    assert await world.log.bounds() == before


async def test_changes_and_deletions_arrive_by_the_watch(world: World) -> None:
    cluster = world.api.cluster
    async with world.ingestor() as ingestor:
        await eventually(settled(ingestor), within=10.0, what="it is ready")
        await cluster.create("serviceaccounts", {"metadata": {"name": "web", "namespace": "default"}})
        await world.says(lambda all_: "ServiceAccount default/web" in all_, "the account arrives")
        await cluster.delete("serviceaccounts", "default", "web")
        await world.says(lambda all_: all_["ServiceAccount default/web"].operation == "deleted", "its deletion arrives")
        await cluster.patch(
            "namespaces", "", "default", {"metadata": {"labels": {projected_objects.LABEL_MONITORED_BY: "meshlog"}}}
        )
        await world.says(lambda all_: all_["Namespace default"].origin.source == "watch", "the label arrives")


async def test_crds_that_are_installed_later_are_found_without_a_restart(world: World) -> None:
    async with world.ingestor() as ingestor:
        await eventually(settled(ingestor), within=10.0, what="it is ready without them")
        await world.install_crds()
        await world.api.cluster.create("trafficsplits.split.smi-spec.io", SPLIT)
        await world.says(lambda all_: "TrafficSplit default/shop" in all_, "the split arrives")


async def test_a_change_set_arrives_as_one_batch(world: World) -> None:
    await world.install_crds()
    async with world.ingestor() as ingestor:
        await eventually(settled(ingestor), within=10.0, what="it is ready")
        objects = [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a", "namespace": "default"}},
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "extra"}},
            SPLIT,
        ]
        await world.api.cluster.transact(objects)
        await world.says(lambda all_: "TrafficSplit default/shop" in all_, "the set arrives")
    together = [record async for record in world.log.read() if events.decode(record.payload).origin.change_set]
    assert [record.batch for record in together] == [(1, 3), (2, 3), (3, 3)]


async def test_watches_that_fell_out_of_the_window_list_again(world: World) -> None:
    """The window is 20 changes: after an absence of 60 the versions are gone, and a deletion was slept through."""
    cluster = world.api.cluster
    await cluster.create("serviceaccounts", {"metadata": {"name": "gone", "namespace": "default"}})
    async with world.ingestor() as ingestor:
        await eventually(settled(ingestor), within=10.0, what="it is ready")
        port = world.api.bound[0][1]
        await world.api.stop()
        await eventually(ingestor.unready, within=10.0, what="it notices that the server is away")
        await cluster.delete("serviceaccounts", "default", "gone")
        for number in range(60):
            await cluster.create("serviceaccounts", {"metadata": {"name": f"n{number}", "namespace": "default"}})
        world.api._addresses = [("127.0.0.1", port)]  # pyright: ignore[reportPrivateUsage]
        await world.api.start()
        await world.says(lambda all_: "ServiceAccount default/n59" in all_, "the newest arrives")
        await world.says(lambda all_: all_["ServiceAccount default/gone"].operation == "deleted", "the deletion too")
        assert ingestor.runners["ServiceAccount"].reflector.counts.gone >= 1
        await eventually(settled(ingestor), within=10.0, what="it is ready again")


@asynccontextmanager
async def _closed(source: KubernetesSource) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await source.close()


async def test_an_objects_status_says_what_became_of_it_and_that_is_no_news_to_the_log(world: World) -> None:
    await world.install_crds()
    cluster = world.api.cluster
    stored = await cluster.create("trafficsplits.split.smi-spec.io", SPLIT)
    key = ObjectKey(cluster="c1", kind="TrafficSplit", namespace="default", name="shop")
    world.kubeconfig.write_text(world.api.kubeconfig(world.url))
    source = await KubernetesSource.connect(str(world.kubeconfig))
    async with world.ingestor() as ingestor, _closed(source):
        progress = AckProgress(cluster="c1", kinds=REPORTED)
        writer = StatusWriter(source, {kind.name: kind for kind in kinds(mesh_namespace="x")}, now=lambda: NOW)
        reporter = ConditionReporter(
            progress,
            ingestor.writer.index,
            writer,
            writer.write_event,
            cluster="c1",
            kinds=REPORTED,
            mesh_namespace="x",
            now=lambda: NOW,
            clock=asyncio.get_running_loop().time,
        )
        ingestor.observe = reporter.note
        await eventually(settled(ingestor), within=10.0, what="it is ready")
        written = ingestor.writer.counts.written
        sequence = (await world.log.bounds())[1]
        left_out = Quarantined(key=key, code="smi/split-root", sentence="root default/shop is no Service")
        head = Commit(format=1, version=sequence, parent=0, epoch="e", build="b")
        progress.take_commit(structs.replace(head, quarantine=[left_out], mesh_namespaces=["default"]))
        await asyncio.sleep(ReportPace().settle)
        await reporter.turn()
        told = await cluster.get("trafficsplits.split.smi-spec.io", "default", "shop")
        assert told is not None
        (accepted, programmed) = told["status"]["conditions"]
        assert (accepted["status"], accepted["reason"]) == ("False", "SplitRoot")
        assert accepted["observedGeneration"] == stored["metadata"]["generation"]
        assert programmed["reason"] == "NotAccepted"

        async def told_once() -> list[str]:
            listed, _ = await cluster.list("events", "default")
            return [each["involvedObject"]["uid"] for each in listed if each["reason"] == "SplitRoot"]

        async with background_task(reporter.run_events()):
            await eventually(told_once, within=5.0, what="an event is told")
        assert await told_once() == [stored["metadata"]["uid"]]
        assert ingestor.writer.counts.written == written
