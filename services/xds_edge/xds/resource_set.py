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
"""In place of a hash: the proxy knows the name, but which bytes it has, if any, is not known."""

_CACHED_CHANGES = 64
_CACHED_RESTRICTIONS = 256
_ASKED_NAMES = 2000


class ResourceChange:
    """What leads from one selection to another."""

    __slots__ = ("__weakref__", "_kept", "goal", "held", "put", "removed")

    def __init__(self, held: ResourceSet, goal: ResourceSet) -> None:
        before, after = held.resources, goal.resources
        self.goal = goal
        self.put: tuple[tuple[str, str], ...] = tuple(
            sorted(pair for pair in after.items() if before.get(pair[0]) != pair[1])
        )
        """(name, hash) that must be sent, by name."""
        self.removed: tuple[str, ...] = tuple(sorted(name for name in before if name not in after))
        """Names that are no more, sorted."""
        self.held = {name: before[name] for name in self.removed}
        self._kept: ResourceSet | None = None

    @property
    def empty(self) -> bool:
        """Whether both are the same."""
        return not self.put and not self.removed

    @property
    def kept(self) -> ResourceSet:
        """What the proxy holds after the additions, before the removals: make before break."""
        if not self.removed:
            return self.goal
        if self._kept is None:
            self._kept = ResourceSet({**self.goal.resources, **self.held})
        return self._kept


class ResourceSet:
    """Exactly these resources of one type. Never changed once made."""

    __slots__ = ("__weakref__", "_changes", "_restrictions", "resources")

    def __init__(self, resources: Mapping[str, str]) -> None:
        self.resources = resources
        self._changes: WeakKeyDictionary[ResourceSet, ResourceChange] | None = None
        self._restrictions: WeakValueDictionary[frozenset[str], ResourceSet] | None = None

    def restrict(self, names: frozenset[str]) -> ResourceSet:
        """The part of it under these names; itself if that is all of it."""
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
            # A set that names far more than there is came from a confused client: it is not worth keeping.
            if len(names) <= 4 * len(resources) + 64 and len(known) < _CACHED_RESTRICTIONS:
                known[names] = found
        return found

    def change_from(self, held: ResourceSet) -> ResourceChange:
        """What leads from `held` to this."""
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
        """A selection of one's own that differs by this."""
        resources = {name: digest for name, digest in self.resources.items() if name not in dropped}
        resources.update(put)
        return ResourceSet(resources)


_NAMES: WeakValueDictionary[frozenset[str], frozenset[str]] = WeakValueDictionary()


def interned(names: frozenset[str]) -> frozenset[str]:
    """The one object for this set of names: thousands of streams name the same, and it is a key of many look-ups."""
    return _NAMES.setdefault(names, names)


NOTHING = ResourceSet({})
"""What a proxy holds that connects for the first time."""


def asking(names: frozenset[str]) -> ResourceSet:
    """What a proxy holds that has asked for these names and nothing else yet.

    Shared by all that ask for the same, so that the first response to each proxy of a class is made once too.
    """
    return _shared_asking(names) if len(names) <= _ASKED_NAMES else ResourceSet(dict.fromkeys(names, UNKNOWN))


@lru_cache(maxsize=64)
def _shared_asking(names: frozenset[str]) -> ResourceSet:
    return ResourceSet(dict.fromkeys(names, UNKNOWN))
