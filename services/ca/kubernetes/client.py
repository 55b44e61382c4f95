"""The Kubernetes API as the CA uses it: single requests and watches, over `shared.kubernetes.client`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from shared.errors import MeshlogError
from shared.kubernetes.answers import JSON, RequestError, WatchRefusedError
from shared.kubernetes.answers import Answer as KubeAnswer
from shared.names import CA

if TYPE_CHECKING:
    from shared.kubernetes.client import KubernetesClient

_TIMEOUT_SECONDS = 15.0
_WATCH_SECONDS = 3600.0
"""Seconds after which a watch ends that the server has not ended: it is asked for 600."""


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
        content_type: str = JSON,
    ) -> KubeAnswer:
        """One request; raises `KubeError` if there is no answer."""
        ...

    def watch(self, path: str, *, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """Chunks of a watch's answer as they arrive; ends when the server ends it, raises `KubeError`."""
        ...


class KubeClient:
    """`KubeApi` over HTTPS."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    @classmethod
    async def connect(cls, kubeconfig: Path | None = None) -> KubeClient:
        """With a kubeconfig, or as the pod's service account. Raises `BadInputError` if neither can be read."""
        # The library that it stands on takes 0.4 s to import, and a CA with a key file does not need it.
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


__all__ = ["KubeAnswer", "KubeApi", "KubeClient", "KubeError"]
