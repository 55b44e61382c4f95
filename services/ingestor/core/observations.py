"""Observations of the cluster: what reflectors pass to the writer.

Separate from both, so that either can be tested without the other.
"""

from __future__ import annotations

import msgspec

from shared.records.events import EventOrigin


class NamespacedName(msgspec.Struct, frozen=True, order=True):
    """Namespace and name of an object within its kind; the namespace of a cluster-scoped object is empty."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class ChangeSetMembership(msgspec.Struct, frozen=True):
    """The annotation `meshlog.io/change-set` of an object that was applied together with others."""

    id: str
    size: int
    """Objects in the whole set."""
    shares: tuple[tuple[str, int], ...] = ()
    """Namespace and its number of objects, sorted; empty: all are in the object's own namespace."""


class Projected(msgspec.Struct, frozen=True):
    """One object, reduced to the fields that can change a proxy's configuration."""

    kind: str
    name: NamespacedName
    uid: str
    resource_version: str
    api_version: str
    body: bytes
    """The projection (`shared.projected_objects`), deterministic JSON."""
    digest: str
    """Of `body` and `api_version`: equal digests mean that no field that matters has changed."""
    origin: EventOrigin = EventOrigin()
    change_set: ChangeSetMembership | None = None
    generation: int = 0
    """Kubernetes' count of changes to the specification; 0: not given."""
    status: bytes = b""
    """`status` of a policy object in the cluster, JSON. Never in the log: the ingestor itself writes it."""
    withheld: int = 0
    """Bytes of the projection, if `body` is its closed form instead (`shared.records.withheld`); else 0."""
    why: str = ""
    """With a closed form: why the object cannot be read; empty: it is too large."""


class KindListed(msgspec.Struct, frozen=True):
    """A list of one kind. Objects that it lacks do not exist, if it is complete and its version is new enough."""

    kind: str
    resource_version: str
    objects: tuple[Projected, ...]
    unreadable: frozenset[NamespacedName] = frozenset()
    """Objects that exist and could not be read: their last good form stays in force."""
    complete: bool = True
    """False if an object was so broken that not even its name is known: then this list deletes nothing."""
    confirming: bool = False
    """It was requested because an earlier list looked older than the log."""


class ObjectUpdated(msgspec.Struct, frozen=True):
    """A watch reported a form of an object (ADDED or MODIFIED)."""

    object: Projected


class ObjectDeleted(msgspec.Struct, frozen=True):
    """A watch reported the deletion of an object (DELETED)."""

    kind: str
    name: NamespacedName
    uid: str
    resource_version: str
    origin: EventOrigin = EventOrigin()


class KindAbsent(msgspec.Struct, frozen=True):
    """The cluster does not serve the kind, perhaps not yet: there is nothing to wait for. It deletes nothing."""

    kind: str


Observation = KindListed | ObjectUpdated | ObjectDeleted | KindAbsent
