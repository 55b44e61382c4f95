"""The Kubernetes API as the CA uses it: a few raw requests, through `kubernetes.aio`'s configuration and transport.

Its models and their deserialisation are not used: what is read is decoded by the caller into structs of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import aiohttp
import msgspec

from shared.errors import MeshlogError

_TIMEOUT_SECONDS = 15.0


class KubeAnswer(msgspec.Struct, frozen=True):
    """Status and body of an answer, whatever the status."""

    status: int
    body: bytes


class KubeError(MeshlogError):
    """The Kubernetes API cannot be reached, or refused; the same request may succeed later."""

    @classmethod
    def of(cls, method: str, path: str, answer: KubeAnswer) -> KubeError:
        """An unexpected answer as an error; the body may hold secrets and is left out."""
        return cls("kube/refused", f"the Kubernetes API answered {answer.status}", about=f"{method} {path}")


class KubeApi(Protocol):
    """Requests to the API server."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> KubeAnswer:
        """One request; raises `KubeError` if there is no answer."""
        ...

    def watch(self, path: str, *, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """Chunks of a watch's answer as they arrive; ends when the server ends it, raises `KubeError`."""
        ...


class KubeClient:
    """`KubeApi` over HTTPS."""

    def __init__(self, client: Any) -> None:
        """Take a `kubernetes.aio.client.ApiClient`; `connect` makes one."""
        self._client = client

    @classmethod
    async def connect(cls, kubeconfig: Path | None = None) -> KubeClient:
        """With a kubeconfig, or as the pod's service account. Raises `KubeError` if neither can be read."""
        from kubernetes.aio import client, config

        from shared.kube_transport import api_client

        configuration = client.Configuration()
        try:
            if kubeconfig is not None:
                await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
            else:
                config.load_incluster_config(client_configuration=configuration)
        except (config.ConfigException, OSError) as error:
            raise KubeError("kube/configuration", f"no way to the Kubernetes API: {error}") from error
        configuration.retries = None
        return cls(api_client(configuration))

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> KubeAnswer:
        """See `KubeApi`."""
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                response = await self._send(method, path, query or {}, body, content_type)
                return KubeAnswer(status=int(response.status), body=await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _unreachable(method, path, error) from error

    async def watch(self, path: str, *, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """See `KubeApi`."""
        try:
            response = (await self._send("GET", path, query, None, "application/json")).response
            async with response:
                if response.status != 200:
                    raise KubeError.of("GET", path, KubeAnswer(status=response.status, body=b""))
                async for chunk in response.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _unreachable("GET", path, error) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _send(self, method: str, path: str, query: Mapping[str, str], body: Any, content_type: str) -> Any:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self._client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        return await self._client.rest_client.request(method, url, headers=headers, body=body, _request_timeout=3600)


def _unreachable(method: str, path: str, error: BaseException) -> KubeError:
    return KubeError("kube/unreachable", f"no answer ({type(error).__name__}: {error})", about=f"{method} {path}")
