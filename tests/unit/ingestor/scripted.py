"""A scripted API server: the truth of one cluster, and every way to answer badly about it on demand."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from services.ingestor.core.kinds import WatchedKind
from services.ingestor.core.reflector import Failure
from services.ingestor.kubernetes.object_source import KindAbsentError, ListAnswer, SourceError
from tests.unit.ingestor.objects import encoded, listing, pod


class ScriptedServer:
    """A `Source` that holds objects by kind and remembers what happened, like etcd."""

    def __init__(self, *, page: int = 2, streams: bool = False) -> None:
        """`streams`: it has streaming lists."""
        self.version = 10
        self.objects: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self.history: list[tuple[int, str, str, bytes]] = []
        self.compacted = 0
        self.absent: set[str] = set()
        self.failures: list[Failure] = []
        """Answers to the next requests, lists and watches alike."""
        self.stale_list_at: int | None = None
        """Answer the next list from the state at this version."""
        self.lists = 0
        """In pages."""
        self.streamed = 0
        self.breaks_after: int | None = None
        """The next streaming list ends after so many objects."""
        self.watches = 0
        self.silent = False
        """Watches send nothing any more."""
        self._page = page
        self._streams = streams
        self._states: dict[int, dict[str, dict[tuple[str, str], dict[str, Any]]]] = {}
        self._changed = asyncio.Event()
        self._hang_ups = 0

    # The cluster

    def apply(self, kind: str, value: dict[str, Any]) -> dict[str, Any]:
        """Create or replace an object."""
        self.version += 1
        meta = value["metadata"]
        meta["resourceVersion"] = str(self.version)
        key = (meta.get("namespace", ""), meta["name"])
        held = self.objects.setdefault(kind, {})
        line_type = "MODIFIED" if key in held else "ADDED"
        held[key] = value
        self._record(line_type, kind, value)
        return value

    def apply_pod(self, name: str, **changes: Any) -> dict[str, Any]:
        """Create or replace a pod."""
        return self.apply("Pod", pod(name, **changes))

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object, if it is there."""
        value = self.objects.get(kind, {}).pop((namespace, name), None)
        if value is not None:
            self.version += 1
            value["metadata"]["resourceVersion"] = str(self.version)
            self._record("DELETED", kind, value)

    def _record(self, line_type: str, kind: str, value: dict[str, Any]) -> None:
        line = json.dumps({"type": line_type, "object": value}).encode()
        self.history.append((self.version, kind, line_type, line))
        self._states[self.version] = json.loads(json.dumps({k: list(v.values()) for k, v in self.objects.items()}))
        self.wake()

    # Faults

    def wake(self) -> None:
        """Let watches look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def say(self, kind: str, line: bytes) -> None:
        """Send this line to the watches of a kind that are open now, whatever it is."""
        self.history.append((self.version, kind, "RAW", line))
        self.wake()

    def hang_up(self) -> None:
        """End all watches in good order."""
        self._hang_ups += 1
        self.wake()

    def compact(self) -> None:
        """Forget history: watches from before get 410."""
        self.version += 1
        self.compacted = self.version
        self.history.clear()
        self.hang_up()

    # The Source

    async def page(self, kind: WatchedKind, continue_token: str) -> ListAnswer:
        """A page of the list."""
        await asyncio.sleep(0)
        self._fail()
        if kind.name in self.absent:
            raise KindAbsentError("kubernetes/kind-absent", "the cluster does not serve it", about=kind.name)
        version, start = self.version, 0
        if continue_token:
            version, start = (int(part) for part in continue_token.split(":"))
            if version < self.compacted:
                raise SourceError(Failure("http 410", status=410))
        else:
            self.lists += 1
            if self.stale_list_at is not None and kind.name == "Pod":
                version, self.stale_list_at = self.stale_list_at, None
        items = self._at(version, kind.name)
        rest = f"{version}:{start + self._page}" if start + self._page < len(items) else ""
        body = listing(items[start : start + self._page], str(version), rest)
        return ListAnswer(body=body, api_version=f"{kind.group}/v1" if kind.group else "v1")

    @contextlib.asynccontextmanager
    async def stream(self, kind: WatchedKind) -> AsyncGenerator[tuple[str, AsyncIterator[bytes]]]:
        """A watch that begins with all there is."""
        await asyncio.sleep(0)
        if not self._streams:
            raise SourceError(Failure("http 422", status=422))
        self._fail()
        if kind.name in self.absent:
            raise KindAbsentError("kubernetes/kind-absent", "the cluster does not serve it", about=kind.name)
        version = self.version
        if self.stale_list_at is not None and kind.name == "Pod":
            version, self.stale_list_at = self.stale_list_at, None
        self.streamed += 1
        self.watches += 1
        yield f"{kind.group}/v1" if kind.group else "v1", self._initial(kind.name, version)

    @contextlib.asynccontextmanager
    async def watch(self, kind: WatchedKind, resource_version: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        """A watch."""
        await asyncio.sleep(0)
        self._fail()
        if kind.name in self.absent:
            raise SourceError(Failure("http 404", status=404))
        self.watches += 1
        yield self._lines(kind.name, int(resource_version))

    async def issuer(self) -> tuple[str, dict[str, Any]]:
        """The issuer."""
        self._fail()
        return "https://issuer", {"keys": []}

    async def _initial(self, kind: str, version: int) -> AsyncIterator[bytes]:
        breaks, self.breaks_after = self.breaks_after, None
        for value in self._at(version, kind)[:breaks]:
            yield encoded({"type": "ADDED", "object": value})
        if breaks is not None:
            return
        marks = {"k8s.io/initial-events-end": "true"}
        metadata = {"resourceVersion": str(version), "annotations": marks}
        yield encoded({"type": "BOOKMARK", "object": {"metadata": metadata}})
        async for line in self._lines(kind, version):
            yield line

    async def _lines(self, kind: str, since: int) -> AsyncIterator[bytes]:
        if since < self.compacted:
            yield encoded({"type": "ERROR", "object": {"code": 410, "reason": "Expired"}})
            return
        hang_ups = self._hang_ups
        sent, opened = 0, len(self.history)
        while True:
            changed = self._changed
            if not self.silent:
                while sent < len(self.history):
                    version, of, line_type, line = self.history[sent]
                    sent += 1
                    if of == kind and (version > since or (line_type == "RAW" and sent > opened)):
                        yield line
                    if hang_ups != self._hang_ups:
                        return
            if changed is self._changed:
                await changed.wait()
            if hang_ups != self._hang_ups:
                return

    def _at(self, version: int, kind: str) -> list[dict[str, Any]]:
        if version >= self.version:
            return [value for _, value in sorted(self.objects.get(kind, {}).items())]
        return self._states.get(version, {}).get(kind, [])  # type: ignore[return-value]

    def _fail(self) -> None:
        if self.failures:
            raise SourceError(self.failures.pop(0))
