"""The cache shows what the cluster holds, also when a watch was too slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import KubeApiError, Obj, WatchEvent
from deploy.devcluster.object_cache import ObjectCache, ObjectChange
from tests.waiting import eventually


def named(name: str, version: int, uid: str = "") -> Obj:
    return {"metadata": {"namespace": "default", "name": name, "uid": uid or name, "resourceVersion": str(version)}}


class Forgetful:
    """A cluster whose first watch has fallen out of the window."""

    def __init__(self) -> None:
        self.lists = [([named("a", 1), named("b", 2)], "2"), ([named("b", 5), named("c", 6)], "6")]
        self.since: list[str] = []

    async def list(self, *_: object, **__: object) -> tuple[list[Obj], str]:
        return self.lists.pop(0)

    async def watch(self, resource: str, *, since: str) -> AsyncIterator[WatchEvent]:
        self.since.append(since)
        if len(self.since) == 1:
            raise KubeApiError(410, "Expired", f"too old resource version of {resource}")
        yield WatchEvent(type="DELETED", object=named("c", 7))
        await asyncio.Event().wait()


async def test_after_a_gap_it_tells_what_was_slept_through() -> None:
    cluster: Any = Forgetful()
    cache = ObjectCache(cluster, ["pods"])
    told: list[tuple[str, bool, bool]] = []
    cache.subscribe(
        "pods", lambda change: told.append((object_fields.name(change.object), change.old is None, change.new is None))
    )
    task = asyncio.create_task(cache.run())
    await eventually(lambda: len(told) == 6, within=5, what="all changes are told")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    added, changed, gone = (True, False), (False, False), (False, True)
    assert told == [
        ("a", *added), ("b", *added), ("a", *gone), ("b", *changed), ("c", *added), ("c", *gone)
    ]  # fmt: skip
    assert cluster.since == ["2", "6"]
    assert [object_fields.name(obj) for obj in cache.all("pods")] == ["b"]


def test_a_namesake_with_another_uid_is_a_deletion_and_an_addition() -> None:
    cluster: Any = Forgetful()
    cache = ObjectCache(cluster, ["pods"])
    told: list[ObjectChange] = []
    cache.apply("pods", WatchEvent(type="ADDED", object=named("a", 1, "u1")))
    cache.subscribe("pods", told.append)
    cache.apply("pods", WatchEvent(type="MODIFIED", object=named("a", 2, "u2")))
    cache.apply("pods", WatchEvent(type="MODIFIED", object=named("a", 2, "u2")))
    assert [(change.old is None, change.new is None) for change in told] == [
        (True, False),
        (False, True),
        (True, False),
    ]
