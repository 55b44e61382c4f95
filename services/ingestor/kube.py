"""The API server through `kubernetes.aio`: its configuration, authentication and transport, and nothing else.

Its models and its watch are left alone (a list of 5,000 Pods takes 2.2 s and 200 MB in them): answers are read as
bytes, watches split into lines here, because a line may be longer than any buffer and end inside a character.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, cast
from urllib.parse import urlencode

import aiohttp
import msgspec
import yaml
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from services.ingestor.kinds import Kind
from services.ingestor.reflector import Failure
from services.ingestor.source import KindAbsentError, ListAnswer, SourceError
from services.ingestor.wire import failure_of
from shared.decoding import UndecodableError, decode
from shared.errors import BadInputError
from shared.kube_transport import api_client

PAGE = 500
"""Objects in a page of a list."""

MAX_LINE = 64 * 1024 * 1024
"""Bytes; a longer line ends its watch. No server in its senses sends one: etcd refuses objects above 1.5 MiB."""

_TAKES = "application/json, application/jwk-set+json"
"""The API server refuses to tell its token keys (406) to whoever takes nothing but plain JSON."""

_ANSWER = 65536
"""Bytes that are read of an answer of which the status matters."""

_REQUEST = aiohttp.ClientTimeout(total=60.0, sock_connect=3.0)
_WATCH = aiohttp.ClientTimeout(total=None, sock_connect=3.0)


class _Version(msgspec.Struct):
    version: str


class _Group(msgspec.Struct, rename="camel"):
    versions: list[_Version] = []
    preferred_version: _Version | None = None


class _Resource(msgspec.Struct):
    name: str


class _Resources(msgspec.Struct):
    resources: list[_Resource] = []


class _Discovery(msgspec.Struct):
    issuer: str


class KubernetesSource:
    """A `Source` over HTTPS. Made by `connect`."""

    def __init__(self, client: ApiClient, kubeconfig: str) -> None:
        self._client = client
        self._kubeconfig = kubeconfig
        self._versions: dict[str, str] = {}
        self._reloading = asyncio.Lock()

    @classmethod
    async def connect(cls, kubeconfig: str) -> KubernetesSource:
        """With this kubeconfig, or as the pod's service account if it is empty.

        Raises `BadInputError` if there is neither.
        """
        return cls(api_client(await _configuration(kubeconfig)), kubeconfig)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()

    async def page(self, kind: Kind, continue_token: str) -> ListAnswer:
        """One page of the list; the first looks up the version that the server prefers."""
        if not continue_token or kind.name not in self._versions:
            self._versions[kind.name] = kind.version or await self._preferred(kind)
        query = {"limit": str(PAGE), **({"continue": continue_token} if continue_token else {}), **_selection(kind)}
        body = await self._get(kind.path(self._versions[kind.name]), query)
        return ListAnswer(body=body, api_version=self._api_version(kind))

    @contextlib.asynccontextmanager
    async def stream(self, kind: Kind) -> AsyncGenerator[tuple[str, AsyncIterator[bytes]]]:
        """A watch that begins with all there is, as new as etcd has it (Kubernetes: "streaming lists")."""
        self._versions[kind.name] = kind.version or await self._preferred(kind)
        asked = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        async with self._watching(kind, asked) as lines:
            yield self._api_version(kind), lines

    @contextlib.asynccontextmanager
    async def watch(self, kind: Kind, resource_version: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        """A watch with bookmarks."""
        async with self._watching(kind, {"resourceVersion": resource_version}) as lines:
            yield lines

    @contextlib.asynccontextmanager
    async def _watching(self, kind: Kind, asked: Mapping[str, str]) -> AsyncGenerator[AsyncIterator[bytes]]:
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            # As long as the server's own clients ask.
            "timeoutSeconds": str(random.randint(300, 600)),  # noqa: S311 (spreads reconnects, guards nothing)
            **asked,
            **_selection(kind),
        }
        path = kind.path(self._versions.get(kind.name, kind.version))
        response = await self._request(path, query, _WATCH)
        try:
            yield _lines(response)
        finally:
            response.close()

    async def issuer(self) -> tuple[str, dict[str, Any]]:
        """Issuer and keys, from the API server's OpenID documents."""
        try:
            found = decode(_Discovery, await self._get("/.well-known/openid-configuration", {}))
            keys = decode(dict[str, Any], await self._get("/openid/v1/jwks", {}))
        except UndecodableError as error:
            raise SourceError(Failure("malformed OpenID document")) from error
        return found.issuer, keys

    async def answers(self) -> None:
        """Ask the server for its version, which any client may: a refusal is an answer too. Raises `SourceError`."""
        response = await self._send("/version", {}, _REQUEST)
        response.close()
        if response.status >= 500:
            raise SourceError(Failure(f"http {response.status}", status=response.status))

    def _api_version(self, kind: Kind) -> str:
        version = self._versions[kind.name]
        return f"{kind.group}/{version}" if kind.group else version

    async def _preferred(self, kind: Kind) -> str:
        try:
            group = decode(_Group, await self._get(f"/apis/{kind.group}", {}))
            served = [each.version for each in group.versions]
            first = group.preferred_version.version if group.preferred_version else ""
            for version in sorted(served, key=lambda each: each != first):
                body = await self._get(f"/apis/{kind.group}/{version}", {})
                if any(each.name == kind.plural for each in decode(_Resources, body).resources):
                    return version
        except UndecodableError as error:
            raise SourceError(Failure("malformed discovery")) from error
        except SourceError as error:
            if error.failure.status != 404:
                raise
        raise KindAbsentError("kubernetes/kind-absent", "the cluster does not serve it", about=kind.name)

    async def _get(self, path: str, query: Mapping[str, str]) -> bytes:
        response = await self._request(path, query, _REQUEST)
        try:
            return await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise SourceError(Failure(f"connection ({type(error).__name__})")) from error
        finally:
            response.close()

    async def send(self, method: str, path: str, body: Any, content_type: str) -> int:
        """See `reporting.Writing`."""
        for attempt in (1, 2):
            response = await self._send(path, {}, _REQUEST, method=method, body=body, content_type=content_type)
            answer = await _beginning(response)
            if response.status != 401 or attempt == 2:
                break
            await self._reload()
        if response.status in (401, 429) or response.status >= 500:
            raise SourceError(failure_of(response.status, answer, _seconds(response.headers.get("Retry-After", ""))))
        return response.status

    async def _request(
        self, path: str, query: Mapping[str, str], limit: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        response = await self._send(path, query, limit)
        if response.status == 401:
            # The token has expired or was rotated: read it again, and try once more.
            response.close()
            await self._reload()
            response = await self._send(path, query, limit)
        if response.status != 200:
            body = await _beginning(response)
            raise SourceError(failure_of(response.status, body, _seconds(response.headers.get("Retry-After", ""))))
        return response

    async def _send(
        self,
        path: str,
        query: Mapping[str, str],
        limit: aiohttp.ClientTimeout,
        *,
        method: str = "GET",
        body: Any = None,
        content_type: str = "application/json",
    ) -> aiohttp.ClientResponse:
        client = self._client
        headers = {"Accept": _TAKES, "User-Agent": "meshlog-ingestor", "Content-Type": content_type}
        url = f"{client.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            await client.update_params_for_auth(headers, [], ["BearerToken"], path, method, None)
            answer = await client.rest_client.request(method, url, headers=headers, body=body, _request_timeout=limit)
        except (ssl.SSLError, aiohttp.ClientSSLError) as error:
            # The cluster's CA may have been replaced.
            await self._reload(transport=True)
            raise SourceError(Failure(f"connection ({type(error).__name__})")) from error
        except (aiohttp.ClientError, OSError, TimeoutError, ConfigException) as error:
            raise SourceError(Failure(f"connection ({type(error).__name__})")) from error
        return cast("aiohttp.ClientResponse", answer.response)

    async def _reload(self, *, transport: bool = False) -> None:
        async with self._reloading:
            try:
                configuration = await _configuration(self._kubeconfig)
            except BadInputError as error:
                raise SourceError(Failure("no credentials")) from error
            if not transport:
                self._client.configuration.api_key = configuration.api_key
                self._client.configuration.refresh_api_key_hook = configuration.refresh_api_key_hook
                return
            old, self._client = self._client, api_client(configuration)
            await old.close()


async def _configuration(kubeconfig: str) -> Configuration:
    configuration = Configuration()
    try:
        if kubeconfig:
            await load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        else:
            load_incluster_config(client_configuration=configuration)
    except (ConfigException, OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
        # The loader takes the file's shape for granted; whatever it trips over, the file is to blame.
        raise BadInputError(
            "kubernetes/config", f"no access to a cluster ({error}); give --kubeconfig FILE, or run inside a pod"
        ) from error
    return configuration


def _selection(kind: Kind) -> dict[str, str]:
    return {"fieldSelector": f"metadata.name={kind.object_name}"} if kind.object_name else {}


def _seconds(header: str) -> float:
    return float(header) if header.isascii() and header.isdigit() else 0.0


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """As much of an answer as matters if it is a refusal. One that ends with it leaves its connection to others."""
    body = bytearray()
    try:
        while len(body) < _ANSWER and (chunk := await response.content.read(_ANSWER - len(body))):
            body += chunk
    except (aiohttp.ClientError, OSError, TimeoutError):
        pass
    finally:
        # If the answer has been read to its end, its connection is not the answer's any more.
        response.close()
    return bytes(body)


async def _lines(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    rest = bytearray()
    try:
        async for chunk in response.content.iter_any():
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
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise SourceError(Failure(f"connection ({type(error).__name__})")) from error
