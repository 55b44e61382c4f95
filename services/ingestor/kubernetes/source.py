"""What a runner needs of an API server, as a protocol: `kube` implements it, tests play the server's part."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from services.ingestor.core.kinds import Kind
from services.ingestor.core.reflector import Failure
from shared.errors import MeshlogError


class SourceError(MeshlogError):
    """A request to the API server failed, or its stream did."""

    def __init__(self, failure: Failure) -> None:
        super().__init__("kubernetes/request", f"the request failed ({failure.why})")
        self.failure = failure


class KindAbsentError(MeshlogError):
    """The server answers, and does not serve the kind."""


class ListAnswer(msgspec.Struct, frozen=True):
    """A page of a list, as bytes."""

    body: bytes
    api_version: str
    """`group/version` of what was asked for."""


class Source(Protocol):
    """The API server, by kind."""

    async def page(self, kind: Kind, continue_token: str) -> ListAnswer:
        """One page of the list. Raises `SourceError`, `KindAbsentError`."""
        ...

    def stream(self, kind: Kind) -> AbstractAsyncContextManager[tuple[str, AsyncIterator[bytes]]]:
        """A watch that begins with all there is: `group/version`, and its lines.

        Entering raises `SourceError` (400 or 422: the server has no such thing), `KindAbsentError`; iterating may
        raise `SourceError`, too.
        """
        ...

    def watch(self, kind: Kind, resource_version: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A watch, as lines without their ends. Entering raises `SourceError`; iterating may, too."""
        ...

    async def issuer(self) -> tuple[str, dict[str, Any]]:
        """Issuer and key set of the cluster's service-account tokens. Raises `SourceError`."""
        ...
