"""What edges served and what proxies held, step by step, to be compared with what was published when all is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from services.xds_edge.snapshot.fleet import Fleet
from shared.eventlog.epoch import begins_later
from shared.records.snapshot import CDS, Snapshot
from tests.simulation.references import Reference, references

Published = Callable[[str, int], list[Snapshot]]
"""(epoch, version) → what was ever published under it."""
Holds = dict[str, dict[str, str]]
"""Type URL → name → hash, as a proxy holds them."""


class Edge(Protocol):
    """An edge, as its witness sees it."""

    name: str
    fleet: Fleet


class Witness:
    """Promises about edges and proxies: P3 and P4 at once, the rest in `differing`."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.clusters: set[str] = set()
        """Names of all clusters that a proxy was ever sent."""
        self._at: dict[str, tuple[str, int]] = {}
        self._served: list[tuple[str, Snapshot]] = []
        self._held: set[tuple[str, str, int, str, frozenset[tuple[str, str, str]]]] = set()
        self._references: dict[tuple[str, str, str], frozenset[Reference]] = {}

    def begins(self, edge: Edge) -> None:
        """An edge starts: what it serves begins with what its disk has."""
        self._at.pop(edge.name, None)

    def applied(self, edge: Edge) -> None:
        """An edge has folded a commit or taken up a keyframe."""
        snapshot = edge.fleet.snapshot
        epoch, version = self._at.get(edge.name, ("", 0))
        if snapshot.version <= version and not begins_later(snapshot.epoch, epoch):
            self.complaints.append(f"P3: {edge.name} goes from version {version} to {snapshot.version}")
        self._at[edge.name] = snapshot.epoch, snapshot.version
        self._served.append((edge.name, copied(snapshot)))

    def sent(self, snapshot: Snapshot, type_url: str, name: str, digest: str) -> bool:
        """A proxy was sent a resource; whether the snapshot of its edge has it."""
        resource = snapshot.resources.get((type_url, name, digest))
        if resource is None:
            return False
        if type_url == CDS:
            self.clusters.add(name)
        self._references[type_url, name, digest] = references(type_url, name, resource.body)
        return True

    def refers(self, type_url: str, name: str, digest: str) -> frozenset[Reference]:
        """What a resource that was sent once refers to."""
        return self._references.get((type_url, name, digest), frozenset())

    def at_rest(self, key: str, epoch: str, version: int, workload_class: str, holds: Holds) -> None:
        """A proxy holds all that its edge has for it."""
        whole = frozenset((type_url, name, digest) for type_url, held in holds.items() for name, digest in held.items())
        self._held.add((key, epoch, version, workload_class, whole))

    def differing(self, published: Published) -> list[str]:
        """What was served or held that no compiler ever published under that version."""
        wrong: list[str] = []
        for name, snapshot in self._served:
            candidates = published(snapshot.epoch, snapshot.version)
            if not any(contents(each) == contents(snapshot) for each in candidates):
                wrong.append(f"P2: {name} served a version {snapshot.version} that was never published like this")
        for key, epoch, version, workload_class, held in sorted(self._held, key=lambda each: each[:4]):
            candidates = published(epoch, version)
            if not any(_view(each, workload_class) == held for each in candidates):
                wrong.append(f"P4: {key} held at rest what is not the view of version {version}")
        return wrong


def _view(snapshot: Snapshot, workload_class: str) -> frozenset[tuple[str, str, str]]:
    view = snapshot.views.get(workload_class, {})
    return frozenset((type_url, name, digest) for type_url, held in view.items() for name, digest in held.items())


def copied(snapshot: Snapshot) -> Snapshot:
    """A snapshot that can be folded further while this one stays."""
    copy = Snapshot()
    copy.version, copy.epoch, copy.build = snapshot.version, snapshot.epoch, snapshot.build
    copy.trust_domain = snapshot.trust_domain
    copy.resources = dict(snapshot.resources)
    copy.views = {
        workload_class: {type_url: dict(names) for type_url, names in view.items()}
        for workload_class, view in snapshot.views.items()
    }
    copy.proxies = dict(snapshot.proxies)
    copy.quarantine = list(snapshot.quarantine)
    copy.mesh_namespaces = list(snapshot.mesh_namespaces)
    return copy


def contents(snapshot: Snapshot) -> object:
    """The content of a snapshot, without its version."""
    bodies = {identity: resource.body for identity, resource in snapshot.resources.items()}
    return bodies, snapshot.views, snapshot.proxies, snapshot.quarantine, snapshot.mesh_namespaces
