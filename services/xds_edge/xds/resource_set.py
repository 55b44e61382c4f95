"""Immutable sets of resources of one type, name → hash: what a proxy should hold, and what it holds.

Thousands of proxies share few resource sets: all proxies of a workload class should hold the same set, and most of them
do. So sets are immutable and shared, and the difference between two of them (`ResourceChange`) is computed once for all
streams that need it. A stream whose proxy deviates, because it refused a resource or requested one again, has a set of
its own until it holds the shared one again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from weakref import WeakKeyDictionary, WeakValueDictionary

UNKNOWN = ""
"""In place of a hash: the proxy knows the name, but it is not known which bytes it holds, if any."""

_CACHED_CHANGES = 64
_CACHED_RESTRICTIONS = 256
_ASKED_NAMES = 2000


class ResourceChange:
    """The difference between two resource sets."""

    __slots__ = ("__weakref__", "_kept", "goal", "held", "put", "removed")

    def __init__(self, held: ResourceSet, goal: ResourceSet) -> None:
        before, after = held.resources, goal.resources
        self.goal = goal
        self.put: tuple[tuple[str, str], ...] = tuple(
            sorted(pair for pair in after.items() if before.get(pair[0]) != pair[1])
        )
        """(name, hash) of resources to send, sorted by name."""
        self.removed: tuple[str, ...] = tuple(sorted(name for name in before if name not in after))
        """Names of removed resources, sorted."""
        self.held = {name: before[name] for name in self.removed}
        self._kept: ResourceSet | None = None

    @property
    def empty(self) -> bool:
        """Whether both sets are equal."""
        return not self.put and not self.removed

    @property
    def kept(self) -> ResourceSet:
        """What the proxy holds after the additions and before the removals: make before break."""
        if not self.removed:
            return self.goal
        if self._kept is None:
            self._kept = ResourceSet({**self.goal.resources, **self.held})
        return self._kept


class ResourceSet:
    """Exactly these resources of one type; immutable."""

    __slots__ = ("__weakref__", "_changes", "_restrictions", "resources")

    def __init__(self, resources: Mapping[str, str]) -> None:
        self.resources = resources
        self._changes: WeakKeyDictionary[ResourceSet, ResourceChange] | None = None
        self._restrictions: WeakValueDictionary[frozenset[str], ResourceSet] | None = None

    def restrict(self, names: frozenset[str]) -> ResourceSet:
        """The subset under these names; the set itself if that is all of it."""
        known = self._restrictions
        if known is None:
            known = self._restrictions = WeakValueDictionary()
        found = known.get(names)
        if found is None:
            resources = self.resources
            if resources.keys() <= names:
                found = self
            else:
                found = ResourceSet({name: resources[name] for name in names if name in resources})
            # Far more names than resources come from a confused client: the subset is not worth caching.
            if len(names) <= 4 * len(resources) + 64 and len(known) < _CACHED_RESTRICTIONS:
                known[names] = found
        return found

    def change_from(self, held: ResourceSet) -> ResourceChange:
        """The difference from `held` to this set."""
        known = self._changes
        if known is None:
            known = self._changes = WeakKeyDictionary()
        found = known.get(held)
        if found is None:
            found = ResourceChange(held, self)
            if len(known) < _CACHED_CHANGES:
                known[held] = found
        return found

    def altered(self, put: Mapping[str, str], dropped: frozenset[str] = frozenset()) -> ResourceSet:
        """A private copy of the set with these changes."""
        resources = {name: digest for name, digest in self.resources.items() if name not in dropped}
        resources.update(put)
        return ResourceSet(resources)


_NAMES: WeakValueDictionary[frozenset[str], frozenset[str]] = WeakValueDictionary()


def interned(names: frozenset[str]) -> frozenset[str]:
    """The one shared object for this set of names.

    Thousands of streams have equal names, and the set is a key of many look-ups.
    """
    return _NAMES.setdefault(names, names)


NOTHING = ResourceSet({})
"""What a proxy holds that connects for the first time."""


def asking(names: frozenset[str]) -> ResourceSet:
    """What a proxy holds that has only subscribed to these names.

    Shared by all proxies with the same names, so that the first response for a class is also made once.
    """
    return _shared_asking(names) if len(names) <= _ASKED_NAMES else ResourceSet(dict.fromkeys(names, UNKNOWN))


@lru_cache(maxsize=64)
def _shared_asking(names: frozenset[str]) -> ResourceSet:
    return ResourceSet(dict.fromkeys(names, UNKNOWN))
