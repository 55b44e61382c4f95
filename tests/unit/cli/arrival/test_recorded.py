"""No silence is taken for "there was no event": the log is compared with what the API keeps."""

from __future__ import annotations

import asyncio
import copy
from typing import Any, Literal, cast

import msgspec
import pytest

from cli.arrival.recorded import Recorder
from cli.kubernetes.api_client import Api, AppliedObject, Manifest
from services.ingestor.core.projection import project
from shared.errors import BadInputError
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import Draft
from shared.records.events import APPLIED, DELETED, SCHEMA, Event, encode
from shared.records.subjects import Streams

CLUSTER, STREAMS = "c", Streams()
TARGET: Manifest = {
    "apiVersion": "access.smi-spec.io/v1alpha3",
    "kind": "TrafficTarget",
    "metadata": {"name": "buy", "namespace": "shop", "uid": "u1", "resourceVersion": "7"},
    "spec": {"destination": {"kind": "ServiceAccount", "name": "web"}, "sources": [], "rules": []},
}
SOON = 0.2
"""Seconds in which what will never come has not come."""


class Server:
    """An API server that keeps one object."""

    def __init__(self, kept: Manifest | None) -> None:
        self.kept = kept

    async def path_of(self, manifest: Manifest) -> str:
        return str(manifest["metadata"]["name"])

    async def namespace_of(self, manifest: Manifest) -> str:
        return str(manifest["metadata"].get("namespace", ""))

    async def request(self, _method: str, _path: str) -> tuple[int, Any]:
        return (404, {}) if self.kept is None else (200, copy.deepcopy(self.kept))


class Case:
    def __init__(self, kept: Manifest | None = TARGET) -> None:
        self.log = MemoryLog()
        self.server = Server(kept)
        self.recorder = Recorder(cast("Api", self.server), self.log, STREAMS, CLUSTER, "meshlog-system")

    async def write(self, manifest: Manifest, *, operation: Literal["applied", "deleted"] = APPLIED) -> int:
        """The ingestor writes the event of an object."""
        metadata = manifest["metadata"]
        body = project(
            manifest["kind"], msgspec.json.encode(manifest), api_version=manifest["apiVersion"], source="api"
        ).body
        event = Event(
            schema=SCHEMA,
            cluster=CLUSTER,
            kind=manifest["kind"],
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            resource_version=metadata["resourceVersion"],
            operation=operation,
            api_version=manifest["apiVersion"],
            object=msgspec.Raw(body) if operation == APPLIED else None,
        )
        return await self.log.publish(Draft(event.subject(STREAMS), encode(event)))

    async def sequence(self, *, dropped: bool = False) -> int:
        if dropped:
            return await self.recorder.sequence([], [TARGET])
        kept = self.server.kept or TARGET
        applied = AppliedObject(
            kind=kept["kind"], namespace="shop", name="buy", uid="u1", resource_version="7", manifest=kept
        )
        return await self.recorder.sequence([applied])


def changed(version: str, **spec: Any) -> Manifest:
    metadata = {**TARGET["metadata"], "resourceVersion": version}
    return {**TARGET, "metadata": metadata, "spec": {**TARGET["spec"], **spec}}


async def never(waiting: asyncio.Task[int]) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), SOON)


async def test_an_update_whose_event_is_not_written_is_waited_for() -> None:
    """The older event of the same object is there, as when the ingestor is stopped."""
    case = Case()
    await case.write(changed("6", sources=[{"kind": "ServiceAccount", "name": "old"}]))
    waiting = asyncio.create_task(case.sequence())
    await never(waiting)
    sequence = await case.write(TARGET)
    assert await waiting == sequence


async def test_an_update_that_changes_nothing_that_matters_has_arrived_with_the_event_before_it() -> None:
    case = Case()
    sequence = await case.write(changed("6"))
    assert await asyncio.wait_for(case.sequence(), 5) == sequence


async def test_what_another_client_made_of_the_object_since_is_waited_for() -> None:
    case = Case()
    await case.write(changed("6", sources=[{"kind": "ServiceAccount", "name": "old"}]))
    waiting = asyncio.create_task(case.sequence())
    await never(waiting)
    case.server.kept = changed("8", sources=[{"kind": "ServiceAccount", "name": "theirs"}])
    sequence = await case.write(case.server.kept)
    assert await asyncio.wait_for(waiting, 5) == sequence


async def test_an_object_of_the_same_name_from_before_is_another() -> None:
    case = Case()
    await case.write({**TARGET, "metadata": {**TARGET["metadata"], "uid": "u0"}})
    await never(asyncio.create_task(case.sequence()))


async def test_a_deletion_has_arrived_when_the_log_says_so() -> None:
    case = Case(kept=None)
    await case.write(TARGET)
    waiting = asyncio.create_task(case.sequence(dropped=True))
    await never(waiting)
    sequence = await case.write(TARGET, operation=DELETED)
    assert await waiting == sequence


async def test_what_never_was_in_either_is_not_waited_for() -> None:
    assert await asyncio.wait_for(Case(kept=None).sequence(dropped=True), 5) == 0


async def test_an_object_that_the_log_will_never_hold_is_refused_with_its_reason() -> None:
    split = {**TARGET, "apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit"}
    case = Case({**split, "spec": [1]})
    await case.write({**split, "metadata": {**TARGET["metadata"], "resourceVersion": "6"}, "spec": {}})
    with pytest.raises(BadInputError, match="cannot be read"):
        await asyncio.wait_for(case.sequence(), 5)


async def test_what_the_log_lacks_is_named_without_waiting() -> None:
    case = Case()
    assert await case.recorder.lacks([TARGET]) == ["TrafficTarget shop/buy"]
    await case.write(changed("6"))
    assert await case.recorder.lacks([TARGET]) == []


@pytest.mark.parametrize(("namespace", "name"), [("meshlog-system", "other"), ("osm-system", "osm-mesh-config")])
async def test_a_mesh_config_that_is_not_the_meshs_own_has_no_events_and_is_not_waited_for(
    namespace: str, name: str
) -> None:
    config: Manifest = {
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": {"name": name, "namespace": namespace, "uid": "u1", "resourceVersion": "7"},
        "spec": {},
    }
    case = Case(config)
    applied = AppliedObject(
        kind="MeshConfig", namespace=namespace, name=name, uid="u1", resource_version="7", manifest=config
    )
    assert await asyncio.wait_for(case.recorder.sequence([applied]), 5) == 0
    assert await case.recorder.lacks([config]) == []
    own = {**config, "metadata": {**config["metadata"], "name": "osm-mesh-config", "namespace": "meshlog-system"}}
    case.server.kept = own
    assert await case.recorder.lacks([own]) == ["MeshConfig meshlog-system/osm-mesh-config"]
