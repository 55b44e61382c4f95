"""Client of the API server: lists and watches by kind, discovery, and the keys of service-account tokens.

Built on `shared.kubernetes.client`, which returns answers as bytes. Watches are split into lines here, because a line
may be longer than any buffer, and a buffer may end inside a character.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import msgspec

from services.ingestor.core.kinds import WatchedKind
from services.ingestor.core.list_decode import failure_of
from services.ingestor.core.reflector import Failure
from services.ingestor.kubernetes.object_source import KindAbsentError, ListAnswer, SourceError
from shared.io.decoding import UndecodableError, decode
from shared.kubernetes.answers import MOST_ANSWER, ApiAnswer, RequestError, WatchRefusedError
from shared.kubernetes.client import KubernetesClient
from shared.names import INGESTOR

PAGE = 500
"""Objects in a page of a list."""

MAX_LINE = 64 * 1024 * 1024
"""Bytes; a longer line ends its watch. No correct server sends one: etcd refuses objects above 1.5 MiB."""

_TAKES = "application/json, application/jwk-set+json"
"""`Accept` header: the API server refuses a request for its token keys (406) that accepts plain JSON only."""

_ANSWER = 65536
"""Bytes that are read of an answer of which only the status matters."""

_MOST_PAGE = PAGE * 2 * 1024 * 1024
"""Bytes of a page of the largest objects."""


class _ApiVersion(msgspec.Struct):
    version: str


class _ApiGroup(msgspec.Struct, rename="camel"):
    versions: list[_ApiVersion] = []
    preferred_version: _ApiVersion | None = None


class _ApiResource(msgspec.Struct):
    name: str


class _ApiResourceList(msgspec.Struct):
    resources: list[_ApiResource] = []


class _OpenIdDocument(msgspec.Struct):
    issuer: str


class KubernetesSource:
    """An `ObjectSource` over HTTPS. Created by `connect`."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self._versions: dict[str, str] = {}

    @classmethod
    async def connect(cls, kubeconfig: str) -> KubernetesSource:
        """Connect with a kubeconfig file, or as the pod's service account if the path is empty.

        Raises `BadInputError` if there is neither.
        """
        return cls(await KubernetesClient.connect(kubeconfig, agent=INGESTOR))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def page(self, kind: WatchedKind, continue_token: str) -> ListAnswer:
        """Request a page of the list; the first page looks up the version that the server prefers."""
        if not continue_token or kind.name not in self._versions:
            self._versions[kind.name] = kind.version or await self._preferred(kind)
        query = {"limit": str(PAGE), **({"continue": continue_token} if continue_token else {}), **_selection(kind)}
        body = await self._get(kind.path(self._versions[kind.name]), query, most=_MOST_PAGE)
        return ListAnswer(body=body, api_version=self._api_version(kind))

    @contextlib.asynccontextmanager
    async def stream(self, kind: WatchedKind) -> AsyncGenerator[tuple[str, AsyncIterator[bytes]]]:
        """Open a watch that begins with every existing object, as new as in etcd (Kubernetes: "streaming lists")."""
        self._versions[kind.name] = kind.version or await self._preferred(kind)
        asked = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        async with self._watching(kind, asked) as lines:
            yield self._api_version(kind), lines

    @contextlib.asynccontextmanager
    async def watch(self, kind: WatchedKind, resource_version: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Open a watch with bookmarks."""
        async with self._watching(kind, {"resourceVersion": resource_version}) as lines:
            yield lines

    @contextlib.asynccontextmanager
    async def _watching(self, kind: WatchedKind, asked: Mapping[str, str]) -> AsyncGenerator[AsyncIterator[bytes]]:
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            # The range of client-go's reflectors.
            "timeoutSeconds": str(random.randint(300, 600)),  # noqa: S311 (spreads reconnects, guards nothing)
            **asked,
            **_selection(kind),
        }
        path = kind.path(self._versions.get(kind.name, kind.version))
        try:
            async with self._client.watch(path, query=query, accept=_TAKES) as chunks:
                yield _lines(chunks)
        except WatchRefusedError as error:
            raise _refused(error.answer) from error
        except RequestError as error:
            raise SourceError(Failure(error.why)) from error

    async def issuer(self) -> tuple[str, dict[str, Any]]:
        """Read issuer and keys from the API server's OpenID documents."""
        try:
            found = decode(_OpenIdDocument, await self._get("/.well-known/openid-configuration", {}))
            keys = decode(dict[str, Any], await self._get("/openid/v1/jwks", {}))
        except UndecodableError as error:
            raise SourceError(Failure("malformed OpenID document")) from error
        return found.issuer, keys

    async def answers(self) -> None:
        """Request the server's version; a refusal is an answer too. Raises `SourceError` if there is none, or a 5xx."""
        answer = await self._request("GET", "/version")
        if answer.status >= 500:
            raise SourceError(Failure(f"http {answer.status}", status=answer.status))

    def _api_version(self, kind: WatchedKind) -> str:
        version = self._versions[kind.name]
        return f"{kind.group}/{version}" if kind.group else version

    async def _preferred(self, kind: WatchedKind) -> str:
        try:
            group = decode(_ApiGroup, await self._get(f"/apis/{kind.group}", {}))
            served = [each.version for each in group.versions]
            first = group.preferred_version.version if group.preferred_version else ""
            for version in sorted(served, key=lambda each: each != first):
                body = await self._get(f"/apis/{kind.group}/{version}", {})
                if any(each.name == kind.plural for each in decode(_ApiResourceList, body).resources):
                    return version
        except UndecodableError as error:
            raise SourceError(Failure("malformed discovery")) from error
        except SourceError as error:
            if error.failure.status != 404:
                raise
        raise KindAbsentError("kubernetes/kind-absent", "the cluster does not serve it", about=kind.name)

    async def _get(self, path: str, query: Mapping[str, str], *, most: int = MOST_ANSWER) -> bytes:
        answer = await self._request("GET", path, query=query, accept=_TAKES, most=most)
        if answer.status != 200:
            raise _refused(answer)
        return answer.body

    async def send(self, method: str, path: str, body: Any, content_type: str) -> int:
        """See `ApiSender`."""
        answer = await self._request(method, path, body=body, content_type=content_type, most=_ANSWER, cut=True)
        if answer.status in (401, 429) or answer.status >= 500:
            raise _refused(answer)
        return answer.status

    async def _request(self, method: str, path: str, **details: Any) -> ApiAnswer:
        try:
            return await self._client.request(method, path, **details)
        except RequestError as error:
            raise SourceError(Failure(error.why)) from error


def _refused(answer: ApiAnswer) -> SourceError:
    return SourceError(failure_of(answer.status, answer.body, answer.retry_after))


def _selection(kind: WatchedKind) -> dict[str, str]:
    return {"fieldSelector": f"metadata.name={kind.object_name}"} if kind.object_name else {}


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    rest = bytearray()
    try:
        async for chunk in chunks:
            searched = len(rest)
            rest += chunk
            start = 0
            while (end := rest.find(b"\n", max(start, searched))) >= 0:
                if end > start:
                    yield bytes(rest[start:end])
                start = end + 1
            if start:
                del rest[:start]
            if len(rest) > MAX_LINE:
                raise SourceError(Failure("line too long"))
    except RequestError as error:
        raise SourceError(Failure(error.why)) from error
