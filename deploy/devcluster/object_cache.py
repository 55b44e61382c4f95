"""The object cache: one watch per resource, shared by all controllers and the kubelet (an informer).

Readers must not modify the returned objects. The cache may lag behind a write by a turn of the event loop, so a
component that would act twice on stale objects (creating pods, for example) reads the API instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence

import msgspec

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Cluster, KubeApiError, Obj, WatchEvent

_log = logging.getLogger(__name__)


class ObjectChange(msgspec.Struct, frozen=True):
    """An object before and after a change. `old` is None if it is new, `new` is None if it was deleted."""

    old: Obj | None
    new: Obj | None

    @property
    def object(self) -> Obj:
        """The newest known version."""
        found = self.new if self.new is not None else self.old
        assert found is not None
        return found

    def forms(self) -> Iterator[Obj]:
        """The versions before and after: they may affect different objects."""
        if self.old is not None:
            yield self.old
        if self.new is not None:
            yield self.new


Subscriber = Callable[[ObjectChange], None]


class ObjectCache:
    """Caches the objects of some resources; `run` keeps them current."""

    def __init__(self, cluster: Cluster, resources: Sequence[str]) -> None:
        self._cluster = cluster
        self._held: dict[str, dict[str, dict[str, Obj]]] = {resource: {} for resource in resources}
        self._subscribers: dict[str, list[Subscriber]] = {resource: [] for resource in resources}
        self._listed: set[str] = set()
        self.synced = asyncio.Event()
        """Set once every resource has been listed."""

    @property
    def resources(self) -> tuple[str, ...]:
        """The cached resources."""
        return tuple(self._held)

    def subscribe(self, resource: str, subscriber: Subscriber) -> None:
        """Call `subscriber` for each cached object, then for each change."""
        for obj in self.all(resource):
            subscriber(ObjectChange(None, obj))
        self._subscribers[resource].append(subscriber)

    def get(self, resource: str, namespace: str, name: str) -> Obj | None:
        """Returns one object, or None."""
        return self._held[resource].get(namespace, {}).get(name)

    def all(self, resource: str, namespace: str | None = None) -> list[Obj]:
        """All objects, or those of one namespace, in no order."""
        if namespace is not None:
            return list(self._held[resource].get(namespace, {}).values())
        return [obj for held in self._held[resource].values() for obj in held.values()]

    async def run(self) -> None:
        """List and watch all resources for ever."""
        async with asyncio.TaskGroup() as group:
            for resource in self._held:
                group.create_task(self._follow(resource), name=f"cache {resource}")

    async def _follow(self, resource: str) -> None:
        while True:
            listed, version = await self._cluster.list(resource)
            self.replace(resource, listed)
            self._listed.add(resource)
            if len(self._listed) == len(self._held):
                self.synced.set()
            try:
                async for event in self._cluster.watch(resource, since=version):
                    self.apply(resource, event)
            except KubeApiError as error:
                if error.status != 410:
                    raise
            _log.info("the watch of %s ended; listing again", resource)

    def replace(self, resource: str, listed: Sequence[Obj]) -> None:
        """Take a complete list: objects that it lacks were deleted."""
        present = {object_fields.key(obj) for obj in listed}
        gone = [obj for obj in self.all(resource) if object_fields.key(obj) not in present]
        for obj in gone:
            self.apply(resource, WatchEvent(type="DELETED", object=obj))
        for obj in listed:
            self.apply(resource, WatchEvent(type="MODIFIED", object=obj))

    def apply(self, resource: str, event: WatchEvent) -> None:
        """Take one change and notify the subscribers. An object with another UID is a deletion and an addition."""
        namespace, name = object_fields.key(event.object)
        held = self._held[resource].setdefault(namespace, {})
        old = held.get(name)
        if event.type == "DELETED":
            held.pop(name, None)
            self._notify(resource, ObjectChange(event.object, None))
            return
        held[name] = event.object
        if old is not None and object_fields.uid(old) != object_fields.uid(event.object):
            self._notify(resource, ObjectChange(old, None))
            old = None
        if old is None or old["metadata"].get("resourceVersion") != event.object["metadata"].get("resourceVersion"):
            self._notify(resource, ObjectChange(old, event.object))

    def _notify(self, resource: str, change: ObjectChange) -> None:
        for subscriber in self._subscribers[resource]:
            subscriber(change)
