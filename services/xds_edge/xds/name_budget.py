"""Counts the bytes of names that streams keep: names subscribed to, and names that proxies report as held.

A pod may name much, because a large mesh has many resources. The limits for names that no snapshot contains are
tighter, because only the streams keep such names: a client could fill the memory with them. All work with names takes
time in proportion to their number, which is charged to the pod's frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from services.xds_edge.limits.memory_ledger import MemoryLedger
from services.xds_edge.limits.pod_usage import PodUsage
from services.xds_edge.xds.resource_set import ResourceSet
from services.xds_edge.xds.subscription import MAX_NAMES, TooManyNamesError, XdsRequest

MAX_NAME = 4096
"""Characters of a name; the mesh's own names are shorter than 300."""
_EACH = 64
"""Bytes that a name takes beside its characters."""
_LOOKED_AT, _KEPT = 200, 25
"""Names that cost as much as one frame: to read, and to keep among others."""


def check_names(names: Iterable[str]) -> None:
    """Raise `TooManyNamesError` if a name is too long."""
    longest = max(map(len, names), default=0)
    if longest > MAX_NAME:
        raise TooManyNamesError(
            "xds/name-too-long", f"names something by {longest} characters; {MAX_NAME} are the most", about="a request"
        )


def check_count(count: int) -> None:
    """Raise `TooManyNamesError` if one request has too many names."""
    if count > MAX_NAMES:
        raise TooManyNamesError(
            "xds/too-many-names", f"names {count} resources; {MAX_NAMES} are the most", about="a request"
        )


def weight(names: Iterable[str], count: int) -> int:
    """Bytes counted for these names; `count` is their number."""
    return sum(map(len, names)) + _EACH * count


class NameLedgers:
    """The names of all streams of one process."""

    def __init__(self, *, each: int = 16 << 20, foreign_each: int = 8 << 20, foreign: int = 128 << 20) -> None:
        """Limits in bytes: of one pod; of names in no snapshot, of one pod and of all pods."""
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
        """Count the names that the stream keeps of a type; `whole`: all resources of it."""
        known = whole.resources
        kept = names if held is whole else names | held.resources.keys()
        foreign = [name for name in kept if name not in known]
        before = self._booked.get(type_url, (0, 0))
        after = self._booked[type_url] = weight(kept, len(kept)), weight(foreign, len(foreign))
        self._ledgers.all.add(self._usage.names, self, after[0] - before[0])
        self._ledgers.foreign.add(self._usage.foreign, self, after[1] - before[1])

    def close(self) -> None:
        """Forget the names: the stream ended."""
        self._ledgers.all.drop(self._usage.names, self)
        self._ledgers.foreign.drop(self._usage.foreign, self)

    def overflow(self) -> None:
        """End the stream."""
        self._too_many()
