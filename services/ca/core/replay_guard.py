"""Rejects replayed signing requests and limits the rate of each pod.

A token is legitimately used for many certificates, so it is no nonce. A CSR may be used once: its key was made for one
request. A CSR under another request id was copied from the log. Signing it would yield a certificate for a key that the
sender does not have, so the memory of one process is sufficient protection. The same id with the same CSR is a
redelivery of the queue. The rate is limited by pod, because a token names a pod.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TypeVar

from services.ca.core.errors import IssuanceRefusedError
from shared.timing.token_bucket import TokenBucket

_K = TypeVar("_K")
_V = TypeVar("_V")

REMEMBERED_SECONDS = 900.0
"""Seconds that a CSR is remembered: longer than an unanswered request stays in the queue."""
REMEMBERED = 50_000
"""Requests, and pods, that are remembered at most."""
BURST = 30
"""Certificates that one pod may get at once: edges that restart request new ones."""
REFILL_SECONDS = 2.0
"""Seconds after which a pod may get one more."""


class ReplayGuard:
    """Remembers the requests of the last minutes. Callers pass the time, in seconds."""

    def __init__(self) -> None:
        self._requests: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._seen: float | None = None
        self._elapsed = 0.0

    @property
    def size(self) -> tuple[int, int]:
        """Numbers of remembered requests and pods."""
        return len(self._requests), len(self._buckets)

    def admit(self, request: str, csr_digest: bytes, pod_uid: str, now: float) -> None:
        """Admit a request. A redelivery of an admitted one does not count against its pod.

        Raises `IssuanceRefusedError`: `csr/replayed`, or `csr/rate` with the seconds to wait.
        """
        known = self._requests.get(csr_digest)
        if known is not None and now - known[1] <= REMEMBERED_SECONDS:
            if known[0] != request:
                raise IssuanceRefusedError("csr/replayed", "the CSR was used by another request")
            return
        steady = self._steady(now)
        self._take(pod_uid, steady)
        self._requests[csr_digest] = (request, now)
        self._requests.move_to_end(csr_digest)
        self._forget(now, steady)

    def remembers(self, request: str, csr_digest: bytes) -> bool:
        """Return whether this request with this CSR was admitted before."""
        known = self._requests.get(csr_digest)
        return known is not None and known[0] == request

    def forget(self, csr_digest: bytes) -> None:
        """Forget a CSR that was not signed, so that it may be used again."""
        self._requests.pop(csr_digest, None)

    def _take(self, pod_uid: str, now: float) -> None:
        bucket = self._buckets.get(pod_uid)
        if bucket is None:
            bucket = self._buckets[pod_uid] = TokenBucket(1 / REFILL_SECONDS, BURST, now)
        if not bucket.take(now):
            wait = math.ceil(bucket.wait(now))
            raise IssuanceRefusedError("csr/rate", "the pod asks for too many certificates", retry_after=float(wait))
        self._buckets.move_to_end(pod_uid)

    def _steady(self, now: float) -> float:
        """Return a clock that never goes back, which token buckets need; `now` may be set back."""
        if self._seen is not None:
            self._elapsed += max(0.0, now - self._seen)
        self._seen = now
        return self._elapsed

    def _forget(self, now: float, steady: float) -> None:
        for digest, (_, at) in list(self._oldest(self._requests)):
            if now - at <= REMEMBERED_SECONDS and len(self._requests) <= REMEMBERED:
                break
            del self._requests[digest]
        for pod_uid, bucket in self._oldest(self._buckets):
            if not bucket.full(steady) and len(self._buckets) <= REMEMBERED:
                break
            del self._buckets[pod_uid]

    @staticmethod
    def _oldest(held: OrderedDict[_K, _V], count: int = 4) -> list[tuple[_K, _V]]:
        """Return a few of the oldest entries: each admission removes more than it adds."""
        return [item for item, _ in zip(held.items(), range(count), strict=False)]
