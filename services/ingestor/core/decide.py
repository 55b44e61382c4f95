"""Decides which observations change the log, and counts the others.

No clock and no log: the writer requests decisions, and commits or undoes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from services.ingestor.core.change_set_assembler import WriteGroup
from services.ingestor.core.log_diff import Change, Decision, compare, delete, observe
from services.ingestor.core.object_index import ObjectIndex
from services.ingestor.core.observations import KindAbsent, KindListed, ObjectDeleted, ObjectUpdated, Observation
from services.ingestor.core.records import TracedChange
from services.ingestor.settings import PANIC

_log = logging.getLogger(__name__)

_UNCHANGED, _OLDER = Decision.UNCHANGED, Decision.OLDER
"""Bound once: in Python 3.11 each access through the class takes 0.2 µs."""


class Reflectors(Protocol):
    """The reflectors of all kinds, as the writer uses them."""

    def relist(self, kind: str, /, *, confirming: bool) -> None:
        """List a kind again, soon. `confirming`: because its newest list looked older than the log."""
        ...


class WriterCounts(msgspec.Struct):
    """Counters since the start, read by metrics."""

    received: int = 0
    written: int = 0
    unchanged: int = 0
    older: int = 0
    spared: int = 0
    batches: int = 0
    refused: int = 0
    abandoned: int = 0
    """Of the refused: batches that the server abandoned half-way."""
    withheld: int = 0
    """Of the written: closed forms, of objects that are too large for the log or unreadable."""
    epochs: int = 0
    doubts: int = 0
    sets: int = 0
    sets_incomplete: int = 0

    def undo_decisions(self, before: WriterCounts) -> None:
        """Restore the counters of decisions: the round is decided again."""
        self.unchanged = before.unchanged
        self.older = before.older
        self.spared = before.spared
        self.doubts = before.doubts

    def count(self, decision: Decision) -> None:
        """Count the decision on one observation of a watch."""
        self.unchanged += decision is _UNCHANGED
        self.older += decision is _OLDER


class RoundDecider:
    """Decides rounds; owned by the writer."""

    def __init__(
        self,
        index: ObjectIndex,
        counts: WriterCounts,
        *,
        reflectors: Reflectors,
        new_traceparent: Callable[[], str],
        panic: float = PANIC,
    ) -> None:
        """`new_traceparent` begins a trace per object. `panic`: see `compare`."""
        self._panic = panic
        self._index = index
        self._counts = counts
        self._reflectors = reflectors
        self._new_traceparent = new_traceparent
        self._suspected: dict[str, int] = {}

    def forget_suspicions(self) -> None:
        """Forget suspect lists: a new epoch begins, and every kind is listed again."""
        self._suspected.clear()

    def decide(self, group: WriteGroup) -> list[list[TracedChange]]:
        """Returns the changes of a group as units that are never split: a whole change set, else one per object."""
        units: list[list[TracedChange]] = []
        for observation in group.observations:
            for changes in self._decide_one(observation):
                trace = self._new_traceparent()
                units.append([(change, trace) for change in changes])
        if not group.change_set or not units:
            return units
        trace = units[0][0][1]
        return [[(change, trace) for unit in units for change, _ in unit]]

    def _decide_one(self, observation: Observation) -> list[tuple[Change, ...]]:
        index = self._index
        match observation:
            case ObjectUpdated(item):
                index.advance(item.kind, item.resource_version)
                decision, changes = observe(index.get(item.kind, item.name), item)
                self._counts.count(decision)
                if decision is _UNCHANGED:
                    index.refresh(item)
                decided = [changes] if changes else []
            case ObjectDeleted(kind, name):
                index.advance(kind, observation.resource_version)
                decision, changes = delete(index.get(kind, name), observation)
                self._counts.count(decision)
                decided = [changes] if changes else []
            case KindListed():
                decided = self._decide_list(observation)
            case KindAbsent():
                decided = []
        for changes in decided:
            for change in changes:
                index.enter(change)
        return decided

    def _decide_list(self, listed: KindListed) -> list[tuple[Change, ...]]:
        # A round that the log refuses is decided again; the list then still confirms the earlier suspicion.
        suspected = (self._suspected.get if listed.confirming else self._suspected.pop)(listed.kind, 0)
        difference = compare(self._index.objects(listed.kind), listed, suspected=suspected, panic=self._panic)
        self._counts.unchanged += difference.unchanged
        self._counts.spared += difference.spared
        if difference.suspect:
            self._suspected[listed.kind] = difference.suspect
        if difference.back_to:
            details = {"kind": listed.kind, "version": listed.resource_version}
            _log.warning("the cluster has gone back to an older version", extra=details)
            self._index.go_back_to(listed.kind, difference.back_to)
        if difference.suspect or difference.panic:
            _log.warning("a list must be confirmed by another", extra={"kind": listed.kind, "panic": difference.panic})
            self._counts.doubts += 1
            self._reflectors.relist(listed.kind, confirming=True)
        elif listed.complete:
            self._index.advance(listed.kind, listed.resource_version)
        for item in listed.objects:
            known = self._index.get(item.kind, item.name)
            if known is not None and observe(known, item)[0] is _UNCHANGED:
                self._index.refresh(item)
        by_object: dict[str, list[Change]] = {}
        for change in difference.changes:
            by_object.setdefault(str(change.name), []).append(change)
        return [tuple(changes) for changes in by_object.values()]
