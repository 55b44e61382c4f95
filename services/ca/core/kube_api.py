"""The interface of the Kubernetes API as the CA uses it: single requests and watches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from shared.errors import MeshlogError
from shared.kubernetes.answers import JSON
from shared.kubernetes.answers import ApiAnswer as KubeAnswer


class KubeError(MeshlogError):
    """The Kubernetes API cannot be reached, or refused the request. The same request may succeed later."""

    @classmethod
    def of(cls, method: str, path: str, answer: KubeAnswer) -> KubeError:
        """Return the error for an unexpected answer. The body is left out because it may contain secrets."""
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
        """Send one request. Raises `KubeError` if there is no answer."""
        ...

    def watch(self, path: str, *, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """Yield the chunks of a watch's answer until the server ends it. Raises `KubeError`."""
        ...


__all__ = ["KubeAnswer", "KubeApi", "KubeError"]
