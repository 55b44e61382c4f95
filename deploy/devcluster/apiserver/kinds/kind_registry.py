"""The registry of served kinds: built-in ones, and those that CustomResourceDefinitions add at run time.

Kinds are looked up by path (group, version, plural), by an object's `apiVersion` and `kind`, or by resource name
(`deployments.apps`). All versions of a kind share one storage; conversion only rewrites `apiVersion`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from deploy.devcluster.apiserver.kinds.builtin_schemas import Schema, shapes
from deploy.devcluster.cluster_api import Obj

Cell = Callable[[Obj, float], Any]
"""Value of a printed column, of an object at a time (seconds since 1970)."""


class PrinterColumn(msgspec.Struct, frozen=True):
    """One column of `kubectl get`."""

    name: str
    cell: Cell
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0
    """Printed only with `-o wide` if above 0."""


class KindVersion(msgspec.Struct, frozen=True):
    """One version of a kind."""

    name: str
    schema: Schema
    columns: tuple[PrinterColumn, ...] = ()
    served: bool = True
    deprecation: str = ""
    """Warning in responses. Empty if the version is not deprecated."""


class ScalePaths(NamedTuple):
    """JSON paths of the fields behind the `scale` subresource."""

    replicas: str
    """In spec."""
    current: str
    """Replicas in status."""
    selector: str
    """In status. Empty if there is none."""


class ResourceKind(msgspec.Struct, frozen=True, eq=False):
    """One kind of object."""

    group: str
    """Empty for the core group."""
    kind: str
    plural: str
    singular: str
    versions: tuple[KindVersion, ...]
    """Preferred version first. Objects are stored in the version in which they were written."""
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status: bool = False
    """True if there is a `status` subresource: then `status` and the rest are written separately."""
    scale: ScalePaths | None = None
    """Paths of the `scale` subresource; None if there is none."""
    generation: bool = False
    """`metadata.generation` counts changes of everything but `metadata` and `status`."""
    custom: bool = False
    """Defined by a CustomResourceDefinition."""

    @property
    def resource(self) -> str:
        """`pods`, `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def version(self, name: str) -> KindVersion | None:
        """Returns a served version by name, or None."""
        for version in self.versions:
            if version.name == name and version.served:
                return version
        return None

    @property
    def preferred(self) -> KindVersion:
        """The default version."""
        return next((version for version in self.versions if version.served), self.versions[0])

    def api_version(self, version: str = "") -> str:
        """`v1`, `apps/v1`."""
        version = version or self.preferred.name
        return f"{self.group}/{version}" if self.group else version


class ResourceTarget(msgspec.Struct, frozen=True):
    """A resource in one version, one of its objects, or a subresource of one."""

    kind: ResourceKind
    version: KindVersion
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.namespace, self.name

    @property
    def api_version(self) -> str:
        """`apps/v1`."""
        return self.kind.api_version(self.version.name)


class KindRegistry:
    """All served kinds."""

    def __init__(self, kinds: tuple[ResourceKind, ...]) -> None:
        self._kinds: dict[str, ResourceKind] = {kind.resource: kind for kind in kinds}
        self.epoch = 0
        """Incremented by every change; documents rendered from the kinds are valid for one epoch."""

    def __iter__(self) -> Iterator[ResourceKind]:
        return iter(list(self._kinds.values()))

    def get(self, resource: str) -> ResourceKind | None:
        """By `pods` or `deployments.apps`."""
        return self._kinds.get(resource)

    def at(self, group: str, version: str, plural: str) -> tuple[ResourceKind, KindVersion] | None:
        """By the path of a request."""
        kind = self._kinds.get(f"{plural}.{group}" if group else plural)
        found = kind.version(version) if kind else None
        return (kind, found) if kind and found else None

    def of(self, api_version: str, kind_name: str) -> tuple[ResourceKind, KindVersion] | None:
        """By the `apiVersion` and `kind` of an object."""
        group, _, version = api_version.rpartition("/")
        for kind in self._kinds.values():
            if kind.group == group and kind.kind == kind_name and (found := kind.version(version)):
                return kind, found
        return None

    def add(self, kind: ResourceKind) -> None:
        """Add or replace a kind."""
        self._kinds[kind.resource] = kind
        self.epoch += 1

    def remove(self, resource: str) -> None:
        """Remove a kind."""
        if self._kinds.pop(resource, None):
            self.epoch += 1


def metadata_schema() -> Schema:
    """Schema of `metadata`."""
    return shapes()["ObjectMeta"]
