"""The snapshot and the streams that serve it: the view of each workload class, and the streams that a commit changes.

Folds commits into the snapshot and keeps one immutable `ClassView` per workload class, so that all streams of a class
compare and send the same objects. A commit wakes only the streams whose class or whose proxy's entry it changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from services.xds_edge.xds.ads import ClassView
from services.xds_edge.xds.resource_set import NOTHING, ResourceSet
from shared.records.snapshot import Commit, Proxy, Snapshot


class FleetStream(Protocol):
    """A stream, as the fleet sees it."""

    @property
    def key(self) -> str:
        """`Proxy.key` of its proxy."""
        ...

    @property
    def synced(self) -> bool:
        """Whether its proxy holds all of the newest view of its class."""
        ...

    def refresh(self) -> None:
        """Serve the newest snapshot: it changed for this stream."""
        ...


class Fleet:
    """Snapshot, views and streams."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.confirmed = False
        """Whether the log has been read to its end since the process started, and since the log was last away."""
        self.views: dict[str, ClassView] = {}
        self.stuck = ""
        """Why newer versions cannot be applied: they need a newer build. Empty if that is not so."""
        self.traceparent = ""
        """Trace context of the newest commit that carried one."""
        self._streams: dict[str, list[FleetStream]] = {}
        self._classes: dict[FleetStream, str] = {}
        self._members: dict[str, set[FleetStream]] = {}

    @property
    def version(self) -> int:
        """Version of the snapshot; 0 before the first."""
        return self.snapshot.version

    def apply(self, commit: Commit) -> None:
        """Apply a commit and wake the streams that it concerns.

        Raises `SnapshotError` as `Snapshot.apply` does; then nothing may be served until a keyframe is applied.
        """
        whole = commit.parent == 0
        before = self.views if whole else {}
        self.snapshot.apply(commit)
        if whole:
            self.views = {}
        for workload_class, change in commit.views.items():
            if change is None:
                self.views.pop(workload_class, None)
                continue
            held = before.get(workload_class) if whole else self.views.get(workload_class)
            touched = None if whole else change.put.keys() | change.dropped.keys()
            self.views[workload_class] = self._view(workload_class, held, touched)
        if commit.traceparents:
            self.traceparent = commit.traceparents[0]
        for stream in self.streams if whole else self._concerned(commit):
            stream.refresh()

    def proxy(self, key: str) -> Proxy | None:
        """The proxy's entry in the snapshot."""
        return self.snapshot.proxies.get(key)

    def view(self, workload_class: str) -> ClassView | None:
        """The view of a class, or None if there is no such class."""
        return self.views.get(workload_class)

    def body(self, type_url: str, name: str, digest: str) -> bytes:
        """The bytes of a resource of a view. Raises `LookupError` if the snapshot does not contain it any more."""
        return self.snapshot.resources[type_url, name, digest].body

    def join(self, stream: FleetStream) -> None:
        """Wake this stream when its proxy changes."""
        self._streams.setdefault(stream.key, []).append(stream)

    def assign(self, stream: FleetStream, workload_class: str) -> None:
        """Wake the stream when this class changes, and no longer for its class before; empty: for no class."""
        before = self._classes.pop(stream, "")
        if before:
            members = self._members[before]
            members.discard(stream)
            if not members:
                del self._members[before]
        if workload_class:
            self._classes[stream] = workload_class
            self._members.setdefault(workload_class, set()).add(stream)

    def leave(self, stream: FleetStream) -> None:
        """Stop waking the stream."""
        self.assign(stream, "")
        streams = self._streams.get(stream.key, [])
        if stream in streams:
            streams.remove(stream)
        if not streams:
            self._streams.pop(stream.key, None)

    def newest(self, key: str) -> FleetStream | None:
        """The stream that a proxy opened last, or None."""
        streams = self._streams.get(key)
        return streams[-1] if streams else None

    def wake_all(self) -> None:
        """Refresh every stream."""
        for stream in self.streams:
            stream.refresh()

    @property
    def synced(self) -> int:
        """Streams whose proxy holds everything that it should."""
        return sum(stream.synced for stream in self.streams)

    @property
    def streams(self) -> list[FleetStream]:
        """Every stream."""
        return [stream for streams in self._streams.values() for stream in streams]

    def _view(self, workload_class: str, held: ClassView | None, touched: Iterable[str] | None) -> ClassView:
        """The view of a class at the version of the snapshot; unchanged types keep their resource set."""
        selections: dict[str, ResourceSet] = {}
        for type_url, names in self.snapshot.views[workload_class].items():
            before = held.of(type_url) if held is not None else NOTHING
            same = before.resources == names if touched is None else type_url not in touched
            selections[type_url] = before if same else ResourceSet(dict(names))
        return ClassView(workload_class, self.snapshot.version, selections)

    def _concerned(self, commit: Commit) -> set[FleetStream]:
        concerned = {stream for name in commit.views for stream in self._members.get(name, ())}
        for key in commit.proxies:
            concerned.update(self._streams.get(key, ()))
        return concerned
