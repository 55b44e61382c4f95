"""The interface of the API for controllers and kubelet, which call it in-process.

`deploy.devcluster.apiserver.local_cluster` implements it over the writer that HTTP requests use: without authentication
and authorization, but with admission webhooks, validation, conflicts and watches. Objects are JSON dicts as on the
wire; returned objects are copies that the caller may modify.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, Protocol

import msgspec

from shared.errors import MeshlogError

Obj = dict[str, Any]
"""A Kubernetes object as JSON."""


class KubeApiError(MeshlogError):
    """The API rejected a request, with HTTP status and `reason` as on Kubernetes."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"api/{reason}", message)
        self.status = status
        self.reason = reason


class WatchEvent(msgspec.Struct, frozen=True):
    """One change, in the order of the store."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: Obj


class Cluster(Protocol):
    """Reads, writes and watches objects.

    `resource` is the plural with its group: `pods`, `deployments.apps`, `leases.coordination.k8s.io`.
    """

    async def get(self, resource: str, namespace: str, name: str) -> Obj | None:
        """Returns one object, or None. `namespace` is empty for cluster-scoped resources."""
        ...

    async def list(
        self, resource: str, namespace: str = "", *, labels: Mapping[str, str] | None = None
    ) -> tuple[list[Obj], str]:
        """Objects (of a namespace, with these labels) by namespace and name, and the list's resource version."""
        ...

    async def create(self, resource: str, obj: Obj, *, manager: str = "devcluster") -> Obj:
        """Create, through admission. `generateName` works. Raises `KubeApiError` 409 `AlreadyExists`, 422, 403."""
        ...

    async def update(self, resource: str, obj: Obj, *, subresource: str = "", manager: str = "devcluster") -> Obj:
        """Replace an object. Raises 409 `Conflict` if `metadata.resourceVersion` is not the newest.

        With subresource `status` only `status` is written; without it `status` is kept. An update without changes keeps
        the resource version and causes no watch event.
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
        """Apply a JSON merge patch (RFC 7386) to the newest version; never conflicts."""
        ...

    async def delete(self, resource: str, namespace: str, name: str, *, grace_seconds: int | None = None) -> None:
        """Delete an object; a missing object is no error.

        Finalizers and the grace period of a pod apply: `deletionTimestamp` is set, and the pod is removed when the
        kubelet deletes it with grace 0.
        """
        ...

    def watch(self, resource: str, namespace: str = "", *, since: str = "") -> AsyncIterator[WatchEvent]:
        """Changes after the resource version `since`, for ever; if it is empty, all objects come first as ADDED."""
        ...
