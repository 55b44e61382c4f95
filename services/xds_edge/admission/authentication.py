"""Who may open a stream: the token decides (P9), never the node's word.

A refusal says in its status what the proxy should do: `UNAUTHENTICATED` (its token is no good), `PERMISSION_DENIED`
(its pod is gone), `UNAVAILABLE` (come back, or go to another edge: this one is not ready, is leaving, or is busy).
Envoy keeps its configuration in all of these and tries again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from services.xds_edge.admission.load_shedding import LoadShedding
from services.xds_edge.errors import Code, StreamRefusedError
from shared.identity.service_account_tokens import TokenRefusedError, WorkloadToken
from shared.timing.token_bucket import TokenBucket

_BEARER = "Bearer "


class TokenChecker(Protocol):
    """What checks tokens: `shared.identity.service_account_tokens.TokenVerifier`."""

    @property
    def clusters(self) -> list[str]:
        """Clusters whose issuer is known."""
        ...

    def verify(self, token: str) -> WorkloadToken:
        """Who the token proves its bearer to be; raises `TokenRefusedError`."""
        ...


class StreamRate:
    """How many new streams a second may be taken: a bucket that fills at `rate` and holds `burst`.

    A refused proxy comes back within a second, so a storm spreads over as many seconds as it needs, and every
    second takes its part: nobody is locked out.
    """

    def __init__(self, *, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bucket = TokenBucket(rate, burst, clock())

    @property
    def rate(self) -> float:
        """New streams a second; may be changed at any time."""
        return self._bucket.rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._bucket.rate = rate

    def take(self) -> bool:
        """Whether one more may be taken now."""
        return self._bucket.take(self._clock())


TARGET = 0.25
"""Seconds that the event loop may be late before fewer new streams are taken."""
_LOOK_AFTER = 0.1
_FLOOR = 100.0
"""New streams a second that are taken however loaded the edge is: shedding is never a lock-out."""


class LoadWatch:
    """Moves the pace with the load: while new streams come, it looks how late the event loop is.

    A loop that is late keeps everybody waiting who is connected already, so the pace falls fast, to a floor, and
    rises slowly again, to the ceiling. Nothing runs while nobody comes.
    """

    def __init__(self, pace: StreamRate, *, ceiling: float, shedding: LoadShedding | None = None) -> None:
        """`shedding` is asked for when a slower pace does not help."""
        self._pace = pace
        self._ceiling = ceiling
        self._shedding = shedding
        self._due: float | None = None
        self.lateness = 0.0
        """Seconds, of the newest look."""

    def admitted(self) -> None:
        """A stream was taken or refused: look in a moment, if nobody does already."""
        if self._due is None:
            loop = asyncio.get_running_loop()
            self._due = loop.time() + _LOOK_AFTER
            loop.call_at(self._due, self._look)

    def _look(self) -> None:
        due, self._due = self._due, None
        if due is not None:
            self.judge(asyncio.get_running_loop().time() - due)

    def judge(self, lateness: float) -> None:
        """Set the pace by how late the loop was."""
        self.lateness = lateness
        rate = self._pace.rate
        if lateness > TARGET:
            self._pace.rate = max(min(_FLOOR, self._ceiling), rate * 0.7)
        elif lateness < TARGET / 2:
            self._pace.rate = min(self._ceiling, rate * 1.1)
        if self._shedding is not None:
            self._shedding.look(late=lateness > TARGET and self._pace.rate <= _FLOOR)


class StreamAdmission:
    """Admits streams."""

    def __init__(
        self, verifier: TokenChecker, *, pace: StreamRate, version: Callable[[], int], watch: LoadWatch | None = None
    ) -> None:
        self.watch = watch
        self._verifier = verifier
        self._pace = pace
        self._version = version
        self.draining = False

    def admit(self) -> None:
        """Take one more stream of a pod that has shown its token; raises `StreamRefusedError`."""
        if self.watch is not None:
            self.watch.admitted()
        if not self._pace.take():
            raise StreamRefusedError(Code.UNAVAILABLE, "stream/paced", "too many new streams at once; come back")

    def identify(self, metadata: Iterable[tuple[str, str | bytes]]) -> tuple[WorkloadToken, str]:
        """Who a token proves its bearer to be, and the token; raises `StreamRefusedError`.

        It comes first: a call without a good token takes nothing of the pace, and of it nothing is read.
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
