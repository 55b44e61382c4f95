"""What reflectors tell the writer: the vocabulary between the side that reads Kubernetes and the side that writes.

Kept apart from both, so that either can be tested without the other.
"""

from __future__ import annotations

import msgspec

from shared.records.events import Origin


class ObjectName(msgspec.Struct, frozen=True, order=True):
    """Which object of a kind."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class ChangeSet(msgspec.Struct, frozen=True):
    """The annotation `meshlog.io/change-set` of an object that was applied together with others."""

    id: str
    size: int
    """How many objects there are in all."""
    shares: tuple[tuple[str, int], ...] = ()
    """Namespace → how many there are in it, sorted; empty: all in the object's own."""


class Projected(msgspec.Struct, frozen=True):
    """One object, reduced to what can change a proxy's configuration."""

    kind: str
    name: ObjectName
    uid: str
    resource_version: str
    api_version: str
    body: bytes
    """The projection (`shared.projected_objects`), deterministic JSON."""
    digest: str
    """Of `body` and `api_version`: equal digests mean that nothing changed which matters."""
    origin: Origin = Origin()
    change_set: ChangeSet | None = None
    generation: int = 0
    """Kubernetes' count of changes to its specification; 0: not told."""
    status: bytes = b""
    """`status` of a policy object as it stands in the cluster, JSON. Never in the log: it is what we report there."""
    withheld: int = 0
    """Bytes of the projection, if `body` is its closed form instead (`shared.records.withheld`); 0: it is not."""
    why: str = ""
    """With a closed form: why the object cannot be read; empty: it is too large."""


class Listed(msgspec.Struct, frozen=True):
    """A complete list of one kind. What it does not hold does not exist, if its resource version is new enough."""

    kind: str
    resource_version: str
    objects: tuple[Projected, ...]
    unreadable: frozenset[ObjectName] = frozenset()
    """Objects that are there and could not be read: their last good form stays in force."""
    complete: bool = True
    """False if an object was so broken that not even its name is known: then nothing is deleted by this list."""
    confirming: bool = False
    """It was asked for after an earlier list looked older than the log."""


class Observed(msgspec.Struct, frozen=True):
    """A watch said that the object is now like this."""

    object: Projected


class Vanished(msgspec.Struct, frozen=True):
    """A watch said that the object was deleted."""

    kind: str
    name: ObjectName
    uid: str
    resource_version: str
    origin: Origin = Origin()


class Absent(msgspec.Struct, frozen=True):
    """The cluster does not serve the kind (yet): there is nothing to wait for. It deletes nothing."""

    kind: str


Fact = Listed | Observed | Vanished | Absent
