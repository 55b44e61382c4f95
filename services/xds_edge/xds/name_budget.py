"""The names that streams make us keep, in bytes: what they subscribe to, and what they say that they hold.

A pod may name much, for a large mesh has many resources. What it names that is in no snapshot it may name within
tighter limits, because such names are nowhere else: they are what a client can fill us with. And whatever is done with
names costs time in proportion to their number, for which the pod's allowance pays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from services.xds_edge.limits.memory_ledger import MemoryLedger
from services.xds_edge.limits.pod_usage import PodUsage
from services.xds_edge.xds.resource_set import ResourceSet
from services.xds_edge.xds.subscription import MAX_NAMES, TooManyNamesError, XdsRequest

MAX_NAME = 4096
"""Characters of a name; the mesh's own are below 300."""
_EACH = 64
"""Bytes that a name takes beside its own."""
_LOOKED_AT, _KEPT = 200, 25
"""Names that cost as much as one frame: to look at, and to keep among others."""


def check_names(names: Iterable[str]) -> None:
    """Raise `TooManyNamesError` if one of them is longer than a name may be."""
    longest = max(map(len, names), default=0)
    if longest > MAX_NAME:
        raise TooManyNamesError(
            "xds/name-too-long", f"names something by {longest} characters; {MAX_NAME} are the most", about="a request"
        )


def check_count(count: int) -> None:
    """Raise `TooManyNamesError` if one request names so many."""
    if count > MAX_NAMES:
        raise TooManyNamesError(
            "xds/too-many-names", f"names {count} resources; {MAX_NAMES} are the most", about="a request"
        )


def weight(names: Iterable[str], count: int) -> int:
    """Bytes that so many names are booked with."""
    return sum(map(len, names)) + _EACH * count


class NameLedgers:
    """The names of all streams of one process."""

    def __init__(self, *, each: int = 16 << 20, foreign_each: int = 8 << 20, foreign: int = 128 << 20) -> None:
        """Bytes that one pod may name; of what is in no snapshot that one pod, and all pods, may name."""
        self.all = MemoryLedger(each=each, total=each << 20)
        self.foreign = MemoryLedger(each=foreign_each, total=foreign)


class StreamNames:
    """The names of one stream."""

    __slots__ = ("_booked", "_ledgers", "_too_many", "_usage")

    def __init__(self, ledgers: NameLedgers, usage: PodUsage, too_many: Callable[[], None]) -> None:
        """`too_many` ends the stream."""
        self._ledgers = ledgers
        self._usage = usage
        self._too_many = too_many
        self._booked: dict[str, tuple[int, int]] = {}

    def pay(self, request: XdsRequest, kept: int) -> None:
        """Charge the pod for a request; `kept`: names that the stream keeps of its type."""
        named = len(request.subscribe) + len(request.unsubscribe) + len(request.initial_versions)
        if named:
            self._usage.frames.spend(named / _LOOKED_AT + kept / _KEPT)

    def book(self, type_url: str, names: frozenset[str], held: ResourceSet, whole: ResourceSet) -> None:
        """What the stream keeps of a type; `whole`: what there is of it."""
        known = whole.resources
        kept = names if held is whole else names | held.resources.keys()
        foreign = [name for name in kept if name not in known]
        before = self._booked.get(type_url, (0, 0))
        after = self._booked[type_url] = weight(kept, len(kept)), weight(foreign, len(foreign))
        self._ledgers.all.add(self._usage.names, self, after[0] - before[0])
        self._ledgers.foreign.add(self._usage.foreign, self, after[1] - before[1])

    def close(self) -> None:
        """The stream is over."""
        self._ledgers.all.drop(self._usage.names, self)
        self._ledgers.foreign.drop(self._usage.foreign, self)

    def overflow(self) -> None:
        """End the stream."""
        self._too_many()
