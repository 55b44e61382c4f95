"""The ingestor in front of any API server: the devcluster's, and a real one if `KUBEBUILDER_ASSETS` holds its binaries.

Everything goes over the wire with a kubeconfig; nothing here may depend on which of the two it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import yaml

from cli.kubernetes import kubeconfig as access
from cli.kubernetes.api_client import Api, Manifest, connect
from deploy.install.profile import Profile
from deploy.install.roles import roles
from services.ingestor.app import App
from services.ingestor.core.kinds import REPORTED, kinds
from services.ingestor.core.observations import NamespacedName, Projected
from services.ingestor.kubernetes.client import PAGE, KubernetesSource
from services.ingestor.kubernetes.status_client import StatusWriter
from services.ingestor.settings import IngestorSettings
from services.ingestor.status.conditions import Condition
from services.ingestor.status.reports import ConditionReport, ObjectEvent
from shared.eventlog.memory import MemoryLog
from shared.records import events
from tests.apiservers import KINDS, apiserver, write_kubeconfig
from tests.waiting import eventually

CRDS = Path(__file__).parents[3] / "deploy" / "crds"
NOW = "2026-01-01T00:00:00Z"
WATCHED = kinds(mesh_namespace="meshlog-system")
SPLITS = "/apis/split.smi-spec.io/v1alpha2/namespaces/shop/trafficsplits"
GROUP = "split.smi-spec.io"
SPLIT: Manifest = {
    "apiVersion": "split.smi-spec.io/v1alpha2",
    "kind": "TrafficSplit",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"service": "web", "backends": [{"service": "v1", "weight": 1}]},
}


class World:
    """An API server in the hands of an administrator, a log, and ingestors."""

    def __init__(self, api: Api, kubeconfig: Path) -> None:
        self.api = api
        self.kubeconfig = kubeconfig
        self.log = MemoryLog()

    async def apply(self, manifests: Iterable[Manifest]) -> None:
        """Apply objects, as soon as the server knows their kinds."""
        for manifest in manifests:
            await self.served(manifest)
            await self.api.apply(manifest)

    async def served(self, manifest: Manifest) -> None:
        """Wait until the server knows the kind."""
        version = manifest["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"

        async def known() -> bool:
            status, listing = await self.api.request("GET", root)
            return status == 200 and any(one["kind"] == manifest["kind"] for one in listing["resources"])

        await eventually(known, within=30.0, what=f"{manifest['kind']} is served")

    @asynccontextmanager
    async def ingestor(self, kubeconfig: Path | None = None) -> AsyncGenerator[tuple[App, KubernetesSource]]:
        """One that leads, ready."""
        source = await KubernetesSource.connect(str(kubeconfig or self.kubeconfig))
        ingestor = App(source, self.log, IngestorSettings(cluster="c1", kubeconfig=str(self.kubeconfig)))
        parts = [ingestor.writer.run(), ingestor.issuer.run(), *(one.run() for one in ingestor.runners.values())]
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            await eventually(lambda: not ingestor.unready(), within=30.0, what="it is ready")
            yield ingestor, source
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await source.close()

    async def history(self, kind: str = "") -> list[events.Event]:
        """Returns the events of the log (of a kind), in order."""
        found = [events.decode(record.payload) async for record in self.log.read()]
        return [event for event in found if not kind or event.kind == kind]

    async def says(self, key: str, *, within: float = 15.0, operation: str = "applied", holding: bytes = b"") -> None:
        """Wait until the newest event of an object is this."""

        async def told() -> bool:
            newest = {str(event.key): event for event in await self.history()}[key]
            return newest.operation == operation and holding in bytes(newest.object or b"")

        await eventually(told, within=within, what=f"{key}: {operation} {holding!r}")


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[World]:
    async with apiserver(request.param, tmp_path) as kubeconfig, connect(access.read(kubeconfig)) as api:
        made = World(api, kubeconfig)
        await made.apply(
            [
                _named("Namespace", "shop"),
                _named("Namespace", "meshlog-system"),
                _named("ServiceAccount", "web", "shop"),
            ]
        )
        yield made


def _named(kind: str, name: str, namespace: str = "") -> Manifest:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata}


def definitions(group: str = "") -> list[Manifest]:
    """Our CRDs (of a group)."""
    return [yaml.safe_load(path.read_text()) for path in sorted(CRDS.glob(f"*.{group}*.yaml" if group else "*.yaml"))]


async def test_what_is_applied_changed_and_deleted_is_in_the_log(world: World) -> None:
    await world.apply([*definitions(GROUP), SPLIT])
    async with world.ingestor() as (ingestor, source):
        found = {str(event.key): event for event in await world.history()}
        assert {"Namespace shop", "ServiceAccount shop/web", "TrafficSplit shop/web", "TokenIssuer cluster"} <= set(
            found
        )
        assert b'"keys":[{' in bytes(found["TokenIssuer cluster"].object or b"")
        assert ingestor.runners["Namespace"].reflector.counts.streamed == 1, "it has streaming lists"
        uid = found["TrafficSplit shop/web"].uid
        said = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": NOW}
        stranger = "00000000-0000-0000-0000-000000000000"
        writer = StatusWriter(source, {kind.name: kind for kind in WATCHED}, now=lambda: NOW)
        for whose, status in ((stranger, b""), (uid, b""), (uid, b'{"conditions": []}'), (stranger, b"{}")):
            told = ConditionReport(object=_item(uid=whose, status=status), conditions=(cast("Condition", said),))
            outcome = await writer(told)
            assert outcome == ("written" if whose == uid else "refused"), (whose, status)
        item = _item(uid=uid, status=b"")
        news = ObjectEvent(item.kind, item.name, uid, "1", item.api_version, "Refused", "a sentence")
        assert await writer.write_event(news) == "written"
        assert await writer.write_event(news) == "refused", "it is there already"
        stored = await world.api.get(f"{SPLITS}/web")
        assert stored["status"]["conditions"] == [said]
        assert "a sentence" in str(await world.api.get("/api/v1/namespaces/shop/events"))
        await world.apply([{**SPLIT, "spec": {**SPLIT["spec"], "service": "other"}}])
        await world.says("TrafficSplit shop/web", holding=b'"other"')
        await world.api.delete(SPLIT)
        await world.says("TrafficSplit shop/web", operation="deleted")
    assert [event.operation for event in await world.history("TrafficSplit")] == ["applied", "applied", "deleted"]


async def test_what_happened_while_it_was_away_is_found_and_nothing_is_written_twice(world: World) -> None:
    await world.apply([_named("ServiceAccount", name, "shop") for name in ("stays", "goes", "anew")])
    async with world.ingestor():
        pass
    written = len(await world.history())
    async with world.ingestor():
        assert len(await world.history()) == written
    for name in ("goes", "anew"):
        await world.api.delete(_named("ServiceAccount", name, "shop"))
    await world.apply([_named("ServiceAccount", name, "shop") for name in ("anew", "new")])
    async with world.ingestor():
        await world.says("ServiceAccount shop/new")
        await world.says("ServiceAccount shop/goes", operation="deleted")
    added = [(event.name, event.operation) for event in (await world.history())[written:]]
    assert sorted(added) == [("anew", "applied"), ("anew", "deleted"), ("goes", "deleted"), ("new", "applied")]


async def test_kinds_come_and_go_without_a_restart_and_every_definition_of_ours_is_taken(world: World) -> None:
    async with world.ingestor() as (ingestor, _):
        await world.apply([*definitions(), SPLIT])
        await world.says("TrafficSplit shop/web", within=30.0)

        def followed() -> bool:
            return {name for name, one in ingestor.runners.items() if one.reflector.counts.watches} >= REPORTED

        await eventually(followed, within=60.0, what="every kind is followed")
        await world.api.delete(SPLIT)
        await world.says("TrafficSplit shop/web", operation="deleted")


async def test_the_installed_role_is_enough_and_opens_no_secret(world: World, tmp_path: Path) -> None:
    await world.apply([*definitions(GROUP), SPLIT])
    await world.apply([one for one in roles(Profile()) if "ingestor" in one["metadata"]["name"]])
    await world.apply([_named("ServiceAccount", "meshlog-ingestor", "meshlog-system")])
    path = "/api/v1/namespaces/meshlog-system/serviceaccounts/meshlog-ingestor/token"
    wish = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    status, answer = await world.api.request("POST", path, body=wish)
    assert status == 201, answer
    own = tmp_path / "ingestor.kubeconfig"
    write_kubeconfig(own, access.read(world.kubeconfig).server, answer["status"]["token"])
    async with world.ingestor(own):
        await world.says("TrafficSplit shop/web")
    async with connect(access.read(own)) as restricted:
        for what in ("secrets", "configmaps"):
            assert (await restricted.request("GET", f"/api/v1/namespaces/shop/{what}"))[0] == 403
        assert (await restricted.request("PATCH", f"{SPLITS}/web", body={}, content_type=_MERGE))[0] == 403


@pytest.mark.parametrize("which", KINDS[1:])
async def test_a_server_whose_streaming_lists_are_turned_off_is_listed_in_pages(which: str, tmp_path: Path) -> None:
    off = "--feature-gates=WatchList=false"
    async with AsyncExitStack() as stack:
        kubeconfig = await stack.enter_async_context(apiserver(which, tmp_path, off))
        api = await stack.enter_async_context(connect(access.read(kubeconfig)))
        world = World(api, kubeconfig)
        await world.apply([_named("Namespace", "shop")])
        names = {f"web-{number}" for number in range(PAGE + 10)}
        await asyncio.gather(*(api.apply(_named("ServiceAccount", name, "shop")) for name in names))
        ingestor, _ = await stack.enter_async_context(world.ingestor())
        counts = ingestor.runners["ServiceAccount"].reflector.counts
        assert (counts.lists, counts.streamed, counts.failures) == (1, 0, 0)
        assert {event.name for event in await world.history("ServiceAccount")} >= names


_MERGE = "application/merge-patch+json"


def _item(*, uid: str, status: bytes) -> Projected:
    return Projected(
        kind="TrafficSplit",
        name=NamespacedName("shop", "web"),
        uid=uid,
        resource_version="1",
        api_version="split.smi-spec.io/v1alpha2",
        body=b"",
        digest="",
        status=status,
    )
