"""Who may open a stream: the token decides (P9), never the node's word.

A refusal says in its status what the proxy should do: `UNAUTHENTICATED` (its token is no good), `PERMISSION_DENIED`
(its pod is gone), `UNAVAILABLE` (come back, or go to another edge: this one is not ready, is leaving, or is busy).
Envoy keeps its configuration in all of these and tries again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Literal, Protocol

from shared.errors import MeshlogError
from shared.tokens import TokenRefusedError, WorkloadToken

Status = Literal["UNAUTHENTICATED", "PERMISSION_DENIED", "UNAVAILABLE", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"]

_BEARER = "Bearer "


class StreamRefusedError(MeshlogError):
    """A stream is not opened, or ends, with this gRPC status."""

    def __init__(self, status: Status, code: str, sentence: str) -> None:
        super().__init__(code, sentence)
        self.status: Status = status


class Verifier(Protocol):
    """What checks tokens: `shared.tokens.TokenVerifier`."""

    @property
    def clusters(self) -> list[str]:
        """Clusters whose issuer is known."""
        ...

    def verify(self, token: str) -> WorkloadToken:
        """Who the token proves its bearer to be; raises `TokenRefusedError`."""
        ...


class Pace:
    """How many new streams a second may be taken: a bucket that fills at `rate` and holds `burst`.

    A refused proxy comes back within a second, so a storm spreads over as many seconds as it needs, and every
    second takes its part: nobody is locked out.
    """

    def __init__(self, *, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._level = burst
        self._filled = clock()

    def take(self) -> bool:
        """Whether one more may be taken now."""
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._filled) * self._rate)
        self._filled = now
        if self._level < 1:
            return False
        self._level -= 1
        return True


class Gatekeeper:
    """Admits streams."""

    def __init__(self, verifier: Verifier, *, pace: Pace, version: Callable[[], int]) -> None:
        self._verifier = verifier
        self._pace = pace
        self._version = version
        self.draining = False

    def admit(self, metadata: Iterable[tuple[str, str | bytes]]) -> tuple[WorkloadToken, str]:
        """Whose stream this is, and the token that proves it; raises `StreamRefusedError`."""
        if self.draining:
            raise StreamRefusedError("UNAVAILABLE", "stream/draining", "this edge is stopping; use another")
        if not self._version() or not self._verifier.clusters:
            raise StreamRefusedError("UNAVAILABLE", "stream/not-ready", "this edge has no snapshot to serve yet")
        if not self._pace.take():
            raise StreamRefusedError("UNAVAILABLE", "stream/paced", "too many new streams at once; come back")
        token = _bearer(metadata)
        try:
            return self._verifier.verify(token), token
        except TokenRefusedError as error:
            raise StreamRefusedError("UNAUTHENTICATED", error.code, "the token is refused") from error


def _bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The token of the `authorization` header (RFC 6750, section 2.1)."""
    found = [value for key, value in metadata if key == "authorization"]
    if len(found) == 1 and isinstance(found[0], str) and found[0].startswith(_BEARER):
        return found[0].removeprefix(_BEARER).strip()
    raise StreamRefusedError(
        "UNAUTHENTICATED", "token/missing", "the stream must carry one `authorization: Bearer` header"
    )
