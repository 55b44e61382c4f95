"""The cluster as the devcluster's own controllers and node agent see it: the API, called in-process.

The API server (`deploy.devcluster.apiserver`) implements it over the same pipeline that HTTP requests take:
authentication is skipped, admission webhooks, validation, conflicts and watches are not. Objects are plain JSON
dicts, exactly as on the wire; what is returned is the caller's own copy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, Protocol

import msgspec

from shared.errors import MeshlogError

Obj = dict[str, Any]
"""A Kubernetes object as JSON."""


class KubeApiError(MeshlogError):
    """A request the API refuses, with the HTTP status and the `reason` that Kubernetes gives it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"api/{reason}", message)
        self.status = status
        self.reason = reason


class WatchEvent(msgspec.Struct, frozen=True):
    """One change, in the order in which the store took it."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: Obj


class Cluster(Protocol):
    """CRUD and watches.

    `resource` is the plural with its group: `pods`, `deployments.apps`, `leases.coordination.k8s.io`.
    """

    async def get(self, resource: str, namespace: str, name: str) -> Obj | None:
        """One object, or none. `namespace` is empty for cluster-scoped resources."""
        ...

    async def list(
        self, resource: str, namespace: str = "", *, labels: Mapping[str, str] | None = None
    ) -> tuple[list[Obj], str]:
        """All objects (of a namespace, with these labels), by namespace and name; and the list's resource version."""
        ...

    async def create(self, resource: str, obj: Obj, *, manager: str = "devcluster") -> Obj:
        """Create, through admission. `generateName` works. Raises `KubeApiError` 409 `AlreadyExists`, 422, 403."""
        ...

    async def update(self, resource: str, obj: Obj, *, subresource: str = "", manager: str = "devcluster") -> Obj:
        """Replace; a `metadata.resourceVersion` that is not the newest gives `KubeApiError` 409 `Conflict`.

        With subresource `status` only `status` is taken, without it `status` is kept. An update that changes
        nothing keeps the resource version and wakes no watch.
        """
        ...

    async def patch(
        self,
        resource: str,
        namespace: str,
        name: str,
        merge: Obj,
        *,
        subresource: str = "",
        manager: str = "devcluster",
    ) -> Obj:
        """JSON merge patch (RFC 7386) of the newest version; never conflicts."""
        ...

    async def delete(self, resource: str, namespace: str, name: str, *, grace_seconds: int | None = None) -> None:
        """Delete as an API client does; a missing object is no error.

        Finalizers and a pod's grace period are honoured: `deletionTimestamp` is set, and the object goes when the
        node agent deletes it with grace 0.
        """
        ...

    def watch(self, resource: str, namespace: str = "", *, since: str = "") -> AsyncIterator[WatchEvent]:
        """Changes after the resource version `since` (none: everything there is as ADDED, then changes), for ever."""
        ...
