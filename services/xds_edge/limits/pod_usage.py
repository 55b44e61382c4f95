"""What one pod uses of this edge, over all its streams and connections.

A token may be used on any number of connections, so usage is counted for the pod: streams, frames, unread bytes, and
the rate of new streams. Each limit is per pod: a pod that reaches one harms no other.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.limits.largest_first import LargestFirst
from services.xds_edge.limits.memory_ledger import ClientMemory
from shared.timing.token_bucket import TokenBucket

FRAME_RATE = 1000.0
"""Frames a second that a pod may send; each frame that it receives allows it more."""
FRAME_BURST = 4000.0
_FORGET_ABOVE = 4096
"""Pods without a stream that are remembered, so that a pod cannot get a new burst by disconnecting."""


class CountedStream(Protocol):
    """A stream of a pod, as the limits see it."""

    def evict(self) -> None:
        """End: the pod has opened too many streams since."""
        ...


class PodLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one pod may use."""

    streams: int = 256
    """Streams at a time; one more ends the oldest."""
    new_streams: float = 10.0
    """New streams a second."""
    new_streams_burst: float = 40.0
    """New streams at once."""
    all_streams: int = 12_000
    """Streams of all pods; one more ends the oldest stream of the pod with most."""


class PodUsage:
    """The usage of one pod."""

    __slots__ = ("_opening", "foreign", "frames", "names", "streams", "unread")

    def __init__(self, limits: PodLimits, now: float) -> None:
        self._opening = TokenBucket(limits.new_streams, limits.new_streams_burst, now)
        self.streams: dict[CountedStream, None] = {}
        """Oldest first."""
        self.frames = TokenBucket(FRAME_RATE, FRAME_BURST, now)
        self.unread = ClientMemory()
        """Bytes of requests that wait to be read."""
        self.names = ClientMemory()
        """Bytes of names that its streams subscribe to."""
        self.foreign = ClientMemory()
        """Bytes of names that its streams subscribe to and no snapshot contains."""

    def opens(self, now: float) -> bool:
        """Whether the pod may open one more stream now; it counts as opened."""
        return self._opening.take(now)

    def idle(self, now: float) -> bool:
        """Whether the usage can be forgotten without loss."""
        return not self.streams and not self.unread.held and self._opening.full(now) and self.frames.full(now)


class PodUsages:
    """The usage of all pods that have shown a token."""

    def __init__(self, limits: PodLimits | None = None) -> None:
        self._limits = limits or PodLimits()
        self._of: dict[str, PodUsage] = {}
        self._forget_at = _FORGET_ABOVE
        self._ranking: LargestFirst[PodUsage] = LargestFirst()

    def __len__(self) -> int:
        return len(self._of)

    def of(self, uid: str, now: float) -> PodUsage:
        """The usage of a pod. `now`: seconds of a steady clock."""
        usage = self._of.get(uid)
        if usage is None:
            if len(self._of) >= self._forget_at:
                self._forget(now)
            usage = self._of[uid] = PodUsage(self._limits, now)
        return usage

    def join(self, usage: PodUsage, stream: CountedStream) -> None:
        """Count a stream; another may be evicted for it. Raises `StreamRefusedError` if none may be."""
        if self._ranking.total >= self._limits.all_streams:
            most, crowd = self._ranking.most()
            if crowd is None or most <= len(usage.streams) + 1:
                raise StreamRefusedError(Code.UNAVAILABLE, "stream/full", "this edge serves as many streams as it may")
            self._evict(crowd)
        elif len(usage.streams) >= self._limits.streams:
            self._evict(usage)
        self._ranking.move(usage, len(usage.streams), len(usage.streams) + 1)
        usage.streams[stream] = None

    def leave(self, usage: PodUsage, stream: CountedStream) -> None:
        """Stop counting a stream."""
        if stream in usage.streams:
            self._ranking.move(usage, len(usage.streams), len(usage.streams) - 1)
            del usage.streams[stream]

    def _evict(self, usage: PodUsage) -> None:
        oldest = next(iter(usage.streams))
        self.leave(usage, oldest)
        oldest.evict()

    def _forget(self, now: float) -> None:
        for uid in [uid for uid, usage in self._of.items() if usage.idle(now)]:
            del self._of[uid]
        # The remaining pods have streams: their number is bounded elsewhere, and a scan of all is not free.
        self._forget_at = max(_FORGET_ABOVE, 2 * len(self._of))
