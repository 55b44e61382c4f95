"""The CA's client of the Kubernetes API: `KubeApi` over `shared.kubernetes.client`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.ca.core.kube_api import KubeAnswer, KubeError
from shared.kubernetes.answers import JSON, RequestError, WatchRefusedError
from shared.names import CA

if TYPE_CHECKING:
    from shared.kubernetes.client import KubernetesClient

_TIMEOUT_SECONDS = 15.0
_WATCH_SECONDS = 3600.0
"""Seconds after which the client ends a watch. The server is asked to end it after 600."""


class KubeClient:
    """`KubeApi` over HTTPS."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    @classmethod
    async def connect(cls, kubeconfig: Path | None = None) -> KubeClient:
        """Connect with a kubeconfig or as the pod's service account. Raises `BadInputError` if neither is readable."""
        # Imported here: the client library takes 0.4 s to import, and a CA with a key file does not need it.
        from shared.kubernetes.client import KubernetesClient

        return cls(await KubernetesClient.connect(str(kubeconfig or ""), agent=CA))

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
    ) -> KubeAnswer:
        """See `KubeApi`."""
        try:
            return await self._client.request(
                method, path, query=query, body=body, content_type=content_type, seconds=_TIMEOUT_SECONDS, wait=True
            )
        except RequestError as error:
            raise _unreachable(error) from error

    async def watch(self, path: str, *, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """See `KubeApi`."""
        try:
            async with self._client.watch(path, query=query, seconds=_WATCH_SECONDS) as chunks:
                async for chunk in chunks:
                    yield chunk
        except WatchRefusedError as error:
            raise KubeError.of("GET", path, error.answer) from error
        except RequestError as error:
            raise _unreachable(error) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _unreachable(error: RequestError) -> KubeError:
    return KubeError("kube/unreachable", f"no answer ({error.details})", about=error.about)
