"""Admission of streams: the token identifies the pod (P9), never the node id.

The status of a refusal states what the proxy should do: `UNAUTHENTICATED` (its token is not valid),
`PERMISSION_DENIED` (its pod is gone), `UNAVAILABLE` (retry here or at another edge: this one is not ready, is draining,
or is busy). Envoy keeps its configuration in all of these cases and retries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from services.xds_edge.admission.rate_limit import LoadWatch, StreamRate
from services.xds_edge.errors import Code, StreamRefusedError
from shared.identity.service_account_tokens import TokenRefusedError, WorkloadToken

_BEARER = "Bearer "


class TokenChecker(Protocol):
    """Verifies tokens: `shared.identity.service_account_tokens.TokenVerifier`."""

    @property
    def clusters(self) -> list[str]:
        """Clusters whose issuer is known."""
        ...

    def verify(self, token: str) -> WorkloadToken:
        """The workload that the token identifies; raises `TokenRefusedError`."""
        ...


class StreamAdmission:
    """Admits streams."""

    def __init__(
        self, verifier: TokenChecker, *, rate: StreamRate, version: Callable[[], int], watch: LoadWatch | None = None
    ) -> None:
        """`version`: of the snapshot that may be served; 0 if none may be."""
        self.watch = watch
        self._verifier = verifier
        self._rate = rate
        self._version = version
        self.draining = False

    def admit(self) -> None:
        """Admit one more stream of an identified pod; raises `StreamRefusedError`."""
        if self.watch is not None:
            self.watch.admitted()
        if not self._rate.take():
            raise StreamRefusedError(Code.UNAVAILABLE, "stream/paced", "too many new streams at once; come back")

    def identify(self, metadata: Iterable[tuple[str, str | bytes]]) -> tuple[WorkloadToken, str]:
        """The workload that a call's token identifies, and the token; raises `StreamRefusedError`.

        Called before `admit`: a call without a valid token takes nothing of the rate, and no message of it is read.
        """
        if self.draining:
            raise StreamRefusedError(Code.UNAVAILABLE, "stream/draining", "this edge is stopping; use another")
        if not self._version() or not self._verifier.clusters:
            raise StreamRefusedError(Code.UNAVAILABLE, "stream/not-ready", "this edge has no snapshot to serve yet")
        token = _bearer(metadata)
        try:
            return self._verifier.verify(token), token
        except TokenRefusedError as error:
            raise StreamRefusedError(Code.UNAUTHENTICATED, error.code, "the token is refused") from error


def _bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The token of the `authorization` header (RFC 6750, section 2.1)."""
    found = [value for key, value in metadata if key == "authorization"]
    if len(found) == 1 and isinstance(found[0], str) and found[0].startswith(_BEARER):
        return found[0].removeprefix(_BEARER).strip()
    raise StreamRefusedError(
        Code.UNAUTHENTICATED, "token/missing", "the stream must carry one `authorization: Bearer` header"
    )
