"""Interface of the API server for reflectors: `KubernetesSource` implements it, tests replace it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from services.ingestor.core.kinds import WatchedKind
from services.ingestor.core.reflector import Failure
from shared.errors import MeshlogError


class SourceError(MeshlogError):
    """A request to the API server, or a watch, failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__("kubernetes/request", f"the request failed ({failure.why})")
        self.failure = failure


class KindAbsentError(MeshlogError):
    """The server answers but does not serve the kind."""


class ListAnswer(msgspec.Struct, frozen=True):
    """A page of a list, as bytes."""

    body: bytes
    api_version: str
    """`group/version` of the request."""


class ObjectSource(Protocol):
    """Lists and watches the objects of each kind."""

    async def page(self, kind: WatchedKind, continue_token: str) -> ListAnswer:
        """Request a page of the list; an empty token begins a list. Raises `SourceError`, `KindAbsentError`."""
        ...

    def stream(self, kind: WatchedKind) -> AbstractAsyncContextManager[tuple[str, AsyncIterator[bytes]]]:
        """Open a watch that begins with every existing object; yields `group/version` and its lines.

        Entering raises `SourceError` (400 or 422: not supported) and `KindAbsentError`; iterating raises `SourceError`.
        """
        ...

    def watch(self, kind: WatchedKind, resource_version: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a watch; yields its lines without line ends. Entering and iterating raise `SourceError`."""
        ...

    async def issuer(self) -> tuple[str, dict[str, Any]]:
        """Read issuer and key set of the cluster's service-account tokens. Raises `SourceError`."""
        ...
