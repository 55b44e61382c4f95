"""The object store: all objects in memory, and a journal of changes per kind.

One counter over all kinds is the resource version. A commit takes several writes at once, so that a change set has
consecutive versions and no other change between them. The journal of a kind keeps a window of its last changes. A
watcher is a position in the journal, not a queue: a slow watcher uses no memory, and receives 410 once its position has
left the window. Stored objects are replaced, never modified; each is encoded once per API version.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from deploy.devcluster.cluster_api import Obj

Key = tuple[str, str]
"""Namespace (empty for cluster-scoped kinds) and name."""

_ENCODER = msgspec.json.Encoder()


class StoredObject:
    """One object at one resource version, with its encodings."""

    __slots__ = ("_encoded", "obj", "revision")

    def __init__(self, obj: Obj, revision: int) -> None:
        self.obj = obj
        self.revision = revision
        self._encoded: dict[str, bytes] = {}

    def encoded(self, api_version: str) -> bytes:
        """The object as JSON with this `apiVersion`; cached."""
        raw = self._encoded.get(api_version)
        if raw is None:
            obj = self.obj
            if obj.get("apiVersion") != api_version:
                obj = {**obj, "apiVersion": api_version}
            raw = self._encoded[api_version] = _ENCODER.encode(obj)
        return raw

    def copy(self) -> Obj:
        """A copy that the caller may modify."""
        return msgspec.json.decode(self.encoded(self.obj["apiVersion"]))


class ObjectWrite(msgspec.Struct, frozen=True):
    """An object to store, or with `remove` the last state of an object to delete."""

    resource: str
    key: Key
    obj: Obj
    remove: bool = False


class JournalEntry:
    """One change, as watchers receive it."""

    __slots__ = ("key", "previous", "stored", "type")

    def __init__(
        self,
        change_type: Literal["ADDED", "MODIFIED", "DELETED"],
        key: Key,
        stored: StoredObject,
        previous: StoredObject | None,
    ) -> None:
        self.type: Literal["ADDED", "MODIFIED", "DELETED"] = change_type
        self.key = key
        self.stored = stored
        self.previous = previous

    @property
    def revision(self) -> int:
        """Resource version of the change."""
        return self.stored.revision


class Journal:
    """The last changes of one kind in order."""

    def __init__(self, window: int, born: int) -> None:
        self._changes: deque[JournalEntry] = deque()
        self._window = window
        self._dropped = 0
        """Number of changes that have left the window: the position of the first change in it."""
        self.floor = born
        """Newest revision that has left the window: the oldest that a watch can start at."""
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def watchers(self) -> int:
        """Number of watchers that wait for the next change."""
        return len(self._waiting)

    def append(self, change: JournalEntry) -> None:
        """Append a change; `wake` wakes the watchers."""
        self._changes.append(change)
        while len(self._changes) > self._window:
            self.floor = self._changes.popleft().revision
            self._dropped += 1

    def wake(self) -> None:
        """Wake all waiting watchers."""
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    @property
    def end(self) -> int:
        """Position after the newest change."""
        return self._dropped + len(self._changes)

    def position(self, revision: int) -> int | None:
        """Position of the first change after `revision`, or None if it has left the window."""
        if revision < self.floor:
            return None
        position = self.end
        for change in reversed(self._changes):
            if change.revision <= revision:
                break
            position -= 1
        return position

    def read(self, position: int, limit: int = 500) -> list[JournalEntry] | None:
        """Changes from a position on, or None if it has left the window."""
        start = position - self._dropped
        if start < 0:
            return None
        stop = min(len(self._changes), start + limit)
        return [self._changes[index] for index in range(start, stop)]

    async def more(self, position: int) -> None:
        """Wait until there is a change at the position."""
        while self.end <= position:
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)


class Store:
    """All objects by kind and key."""

    def __init__(self, *, window: int = 1000, first_revision: int = 1) -> None:
        self.revision = first_revision
        self._window = window
        self._objects: dict[str, dict[Key, StoredObject]] = {}
        self._journals: dict[str, Journal] = {}

    def get(self, resource: str, namespace: str, name: str) -> StoredObject | None:
        """One object."""
        return self._objects.get(resource, {}).get((namespace, name))

    def items(self, resource: str, namespace: str = "") -> list[StoredObject]:
        """All objects of a kind (of a namespace), by namespace and name."""
        objects = self._objects.get(resource, {})
        keys = sorted(key for key in objects if key[0] == namespace) if namespace else sorted(objects)
        return [objects[key] for key in keys]

    def count(self, resource: str) -> int:
        """Number of objects of a kind."""
        return len(self._objects.get(resource, {}))

    def everything(self) -> Iterator[tuple[str, Key, StoredObject]]:
        """All objects of all kinds."""
        for resource, objects in list(self._objects.items()):
            for key, stored in list(objects.items()):
                yield resource, key, stored

    def journal(self, resource: str) -> Journal:
        """The changes of a kind."""
        journal = self._journals.get(resource)
        if journal is None:
            # No object of this kind was ever written, so a watch from any revision misses nothing.
            journal = self._journals[resource] = Journal(self._window, 0)
        return journal

    def commit(self, writes: Sequence[ObjectWrite]) -> list[StoredObject]:
        """Commit all writes at once, in order, and set their resource versions."""
        results: list[StoredObject] = []
        touched: dict[str, Journal] = {}
        for write in writes:
            self.revision += 1
            write.obj["metadata"]["resourceVersion"] = str(self.revision)
            stored = StoredObject(write.obj, self.revision)
            objects = self._objects.setdefault(write.resource, {})
            if write.remove:
                previous = objects.pop(write.key, None)
                change = JournalEntry("DELETED", write.key, stored, previous)
            else:
                previous = objects.get(write.key)
                objects[write.key] = stored
                change = JournalEntry("MODIFIED" if previous else "ADDED", write.key, stored, previous)
            journal = touched.setdefault(write.resource, self.journal(write.resource))
            journal.append(change)
            results.append(stored)
        for journal in touched.values():
            journal.wake()
        return results
