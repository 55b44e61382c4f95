"""Who has asked already, and how often: replays and floods.

A token is used for many certificates, legitimately, so it is no nonce. What may come only once is a CSR: its key was
made for one request. Whoever sends a CSR again under another id replays what it found in the log; that would yield a
certificate for a key that it does not have, so the memory of one CA process is protection enough. The same id with the
same CSR is the queue's redelivery, and is told apart. Certificates per pod are limited, because a pod is what a token
names.
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
"""Longer than an unanswered request stays in the queue."""
REMEMBERED = 50_000
BURST = 30
"""Certificates that one pod may have at once: edges that restart ask anew."""
REFILL_SECONDS = 2.0
"""Seconds after which a pod may have one more."""


class ReplayGuard:
    """Memory of the requests of the last minutes; pure but for it: time is passed in."""

    def __init__(self) -> None:
        self._requests: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._seen: float | None = None
        self._elapsed = 0.0

    @property
    def size(self) -> tuple[int, int]:
        """How many requests and pods are remembered."""
        return len(self._requests), len(self._buckets)

    def admit(self, request: str, csr_digest: bytes, pod_uid: str, now: float) -> None:
        """Let a request through; one that was admitted before (a redelivery) costs its pod nothing.

        Raises `RefusedError`: `csr/replayed`, or `csr/rate` with the seconds to wait.
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
        """Whether this very request was admitted before."""
        known = self._requests.get(csr_digest)
        return known is not None and known[0] == request

    def forget(self, csr_digest: bytes) -> None:
        """Let a CSR come again: it was not signed."""
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
        """Seconds that have passed by a clock that may be set back: the buckets need one that is not."""
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
        """A few of the oldest: each admission cleans up more than it adds."""
        return [item for item, _ in zip(held.items(), range(count), strict=False)]
