"""A client of the Kubernetes API: the configuration, authentication and transport of `kubernetes.aio`, nothing else.

The models and the watch of that library are not used: a list of 5,000 Pods takes 2.2 s and 200 MB in them. Answers are
bytes, and callers decode what they need. What its raw requests lack is here, for every service alike: credentials are
read again when the server refuses them, every request ends, every answer is bounded, `Retry-After` is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, NamedTuple, cast
from urllib.parse import urlencode

import aiohttp
import yaml
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from shared.errors import BadInputError
from shared.kubernetes.answers import JSON, MOST_ANSWER, ApiAnswer, RequestError, WatchRefusedError
from shared.kubernetes.transport import api_client

MOST_REFUSAL = 65536
"""Bytes that are read of an answer that refuses a watch: a `Status` with the reason."""
REQUEST_SECONDS = 60.0
"""Seconds that a request may take with its answer, by default."""
CONNECT_SECONDS = 3.0
"""Seconds that a connection may take to be made."""


class _Request(NamedTuple):
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any = None

    @property
    def about(self) -> str:
        return f"{self.method} {self.path}"


class KubernetesClient:
    """Requests to one API server. Made by `connect`."""

    def __init__(self, configuration: Configuration, kubeconfig: str, *, agent: str) -> None:
        """Take a configuration that was read from `kubeconfig`, which is read again when the server refuses it."""
        self._client = api_client(configuration)
        self._kubeconfig = kubeconfig
        self._agent = agent
        self._reloading = asyncio.Lock()

    @classmethod
    async def connect(cls, kubeconfig: str, *, agent: str) -> KubernetesClient:
        """With this kubeconfig, or as the service account of the pod if it is empty; `agent` is the `User-Agent`.

        Raises `BadInputError` if neither can be used. No request is made yet.
        """
        return cls(await _configuration(kubeconfig), kubeconfig, agent=agent)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
        accept: str = JSON,
        seconds: float = REQUEST_SECONDS,
        wait: bool = False,
        most: int = MOST_ANSWER,
        cut: bool = False,
    ) -> ApiAnswer:
        """Make one request and read its answer, of at most `most` bytes, within `seconds`.

        `wait`: a request that a busy server refuses (429, 503) with `Retry-After` is repeated at that time, if that is
        still within `seconds`; else the answer is returned at once. `cut`: of a longer answer `most` bytes are enough.
        Raises `RequestError` if there is no answer.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        headers = {"Accept": accept, "User-Agent": self._agent, "Content-Type": content_type}
        request = _Request(method, path, query or {}, headers, body)
        about = request.about
        while True:
            try:
                async with asyncio.timeout_at(end):
                    response = await self._open(request, within=seconds)
                    answer = await _read(response, most, cut=cut, about=about)
            except TimeoutError as error:
                raise RequestError(
                    "connection (TimeoutError)", about=about, details="TimeoutError: too slow"
                ) from error
            patient = wait and answer.status in (429, 503) and answer.retry_after > 0
            if not patient or loop.time() + answer.retry_after >= end:
                return answer
            await asyncio.sleep(answer.retry_after)

    @contextlib.asynccontextmanager
    async def watch(
        self, path: str, *, query: Mapping[str, str], accept: str = JSON, seconds: float | None = None
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Chunks of a watch as they arrive, until the server ends it or `seconds` are over (None: never).

        A server that vanishes is noticed by the kernel (`transport`). Entering raises `WatchRefusedError` and
        `RequestError`, iterating `RequestError`.
        """
        headers = {"Accept": accept, "User-Agent": self._agent, "Content-Type": JSON}
        request = _Request("GET", path, query, headers)
        about = request.about
        response = await self._open(request, within=seconds)
        try:
            if response.status != 200:
                raise WatchRefusedError(await _refusal(response), about=about)
            yield _chunks(response, about=about)
        finally:
            response.close()

    async def _open(self, request: _Request, *, within: float | None) -> aiohttp.ClientResponse:
        response = await self._send(request, within=within)
        if response.status != 401:
            return response
        # The token has expired or was rotated: read it again, and try once more.
        response.close()
        await self._reload(about=request.about)
        return await self._send(request, within=within)

    async def _send(self, request: _Request, *, within: float | None) -> aiohttp.ClientResponse:
        client, headers, about = self._client, dict(request.headers), request.about
        url = f"{client.configuration.host}{request.path}" + (f"?{urlencode(request.query)}" if request.query else "")
        limit = aiohttp.ClientTimeout(total=within, sock_connect=CONNECT_SECONDS)
        try:
            await client.update_params_for_auth(headers, [], ["BearerToken"], request.path, request.method, None)
            answer = await client.rest_client.request(
                request.method, url, headers=headers, body=request.body, _request_timeout=limit
            )
        except (ssl.SSLError, aiohttp.ClientSSLError) as error:
            # The cluster's CA may have been replaced.
            await self._reload(about=about, transport=True)
            raise _unreachable(error, about=about) from error
        except (aiohttp.ClientError, OSError, TimeoutError, ConfigException, ApiException) as error:
            raise _unreachable(error, about=about) from error
        return cast("aiohttp.ClientResponse", answer.response)

    async def _reload(self, *, about: str, transport: bool = False) -> None:
        async with self._reloading:
            try:
                configuration = await _configuration(self._kubeconfig)
            except BadInputError as error:
                raise RequestError("no credentials", about=about) from error
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
    configuration.retries = None
    return configuration


async def _read(response: aiohttp.ClientResponse, most: int, *, cut: bool, about: str) -> ApiAnswer:
    body = bytearray()
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > most:
                if cut:
                    break
                raise RequestError("answer too large", about=about, details=f"it has more than {most} bytes")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise _unreachable(error, about=about) from error
    finally:
        # Nothing is lost by it: a connection whose answer was read whole has gone back to the others already.
        response.close()
    return ApiAnswer(response.status, bytes(body[:most]), retry_after_of(response.headers))


async def _refusal(response: aiohttp.ClientResponse) -> ApiAnswer:
    try:
        body = await response.content.read(MOST_REFUSAL)
    except (aiohttp.ClientError, OSError, TimeoutError):
        body = b""
    return ApiAnswer(response.status, body, retry_after_of(response.headers))


async def _chunks(response: aiohttp.ClientResponse, *, about: str) -> AsyncGenerator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise _unreachable(error, about=about) from error


def retry_after_of(headers: Mapping[str, str]) -> float:
    """Seconds in `Retry-After` (RFC 9110, 10.2.3); 0 if there is none, or a date, which no API server sends."""
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0


def _unreachable(error: BaseException, *, about: str) -> RequestError:
    kind = type(error).__name__
    return RequestError(f"connection ({kind})", about=about, details=f"{kind}: {error}")
