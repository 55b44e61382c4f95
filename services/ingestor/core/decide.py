"""Facts against the book: what of them is to be written, and the counters that say what became of the rest.

No clock, no log: the writer asks, and enters or takes back what was decided.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from services.ingestor.core.change_sets import Group
from services.ingestor.core.diff import PANIC, Applied, Change, compare, observe, vanish
from services.ingestor.core.object_index import Book
from services.ingestor.core.observations import Absent, Fact, Listed, Observed, Vanished
from services.ingestor.core.records import Traced

_log = logging.getLogger(__name__)


class Counts(msgspec.Struct):
    """Hot counters, read by metrics."""

    received: int = 0
    written: int = 0
    unchanged: int = 0
    older: int = 0
    spared: int = 0
    batches: int = 0
    refused: int = 0
    abandoned: int = 0
    """Of those: batches that the server gave up half-way."""
    withheld: int = 0
    """Of those that were written: closed forms, of objects that are too large for the log or unreadable."""
    epochs: int = 0
    doubts: int = 0
    sets: int = 0
    sets_incomplete: int = 0

    def undo_decisions(self, before: Counts) -> None:
        """Take back what deciding a round has counted: the round is decided anew."""
        self.unchanged = before.unchanged
        self.older = before.older
        self.spared = before.spared
        self.doubts = before.doubts


class Verdicts:
    """Decides rounds; owned by the writer."""

    def __init__(
        self,
        book: Book,
        counts: Counts,
        *,
        doubt: Callable[[str, bool], None],
        new_traceparent: Callable[[], str],
        panic: float = PANIC,
    ) -> None:
        """`doubt(kind, confirming)` asks the reflector of a kind to list again. `panic`: see `compare`."""
        self._panic = panic
        self._book = book
        self._counts = counts
        self._doubt = doubt
        self._new_traceparent = new_traceparent
        self._suspected: dict[str, int] = {}

    def forget_suspicions(self) -> None:
        """A new epoch begins: every kind is listed anew."""
        self._suspected.clear()

    def decide(self, group: Group) -> list[list[Traced]]:
        """The changes of a group as units that are never split: the whole of a change set, else each object's."""
        units: list[list[Traced]] = []
        for fact in group.facts:
            for changes in self._decide_fact(fact):
                trace = self._new_traceparent()
                units.append([(change, trace) for change in changes])
        if not group.change_set or not units:
            return units
        trace = units[0][0][1]
        return [[(change, trace) for unit in units for change, _ in unit]]

    def _decide_fact(self, fact: Fact) -> list[tuple[Change, ...]]:
        match fact:
            case Observed(item):
                self._book.hear(item.kind, item.resource_version)
                verdict, changes = observe(self._book.get(item.kind, item.name), item)
                self._counts.unchanged += verdict == "unchanged"
                self._counts.older += verdict == "older"
                if verdict == "unchanged":
                    self._book.see(item)
                decided = [changes] if changes else []
            case Vanished():
                self._book.hear(fact.kind, fact.resource_version)
                verdict, changes = vanish(self._book.get(fact.kind, fact.name), fact)
                self._counts.unchanged += verdict == "unchanged"
                self._counts.older += verdict == "older"
                decided = [changes] if changes else []
            case Listed():
                decided = self._decide_list(fact)
            case Absent():
                decided = []
        for changes in decided:
            for change in changes:
                self._book.decide(change)
        return decided

    def _decide_list(self, listed: Listed) -> list[tuple[Change, ...]]:
        # A round that the log refuses is decided again, and then too the list confirms what an earlier one said.
        suspected = (self._suspected.get if listed.confirming else self._suspected.pop)(listed.kind, 0)
        difference = compare(self._book.objects(listed.kind), listed, suspected=suspected, panic=self._panic)
        self._counts.unchanged += difference.unchanged
        self._counts.spared += difference.spared
        if difference.suspect:
            self._suspected[listed.kind] = difference.suspect
        if difference.back_to:
            said = {"kind": listed.kind, "version": listed.resource_version}
            _log.warning("the cluster has gone back, and is believed", extra=said)
            self._book.go_back(listed.kind, difference.back_to)
        if difference.suspect or difference.panic:
            _log.warning("a list is doubted", extra={"kind": listed.kind, "panic": difference.panic})
            self._counts.doubts += 1
            self._doubt(listed.kind, True)
        elif listed.complete:
            self._book.hear(listed.kind, listed.resource_version)
        for item in listed.objects:
            known = self._book.get(item.kind, item.name)
            if known is not None and observe(known, item)[0] == "unchanged":
                self._book.see(item)
        by_object: dict[str, list[Change]] = {}
        for change in difference.changes:
            name = change.object.name if isinstance(change, Applied) else change.name
            by_object.setdefault(str(name), []).append(change)
        return [tuple(changes) for changes in by_object.values()]
