"""What a standby knows that the log may not: facts kept until the leader has written them, and handed over when not.

A standby's watches run like the leader's. Its facts pile up here, the newest of each object, and are let go as soon as
the log says the same; so what is left when the leader dies is exactly what the leader had not written.
"""

from __future__ import annotations

import msgspec

from services.ingestor.core.diff import Applied, ListDifference, compare, number, observe, vanish
from services.ingestor.core.object_index import Book
from services.ingestor.core.observations import Absent, Fact, Listed, ObjectName, Observed, Vanished

_WHATEVER = 1 << 64
"""A version beyond all: a list is older than it."""


class Standby:
    """Facts by kind and object, mutable; owned by the writer."""

    def __init__(self) -> None:
        self._lists: dict[str, Listed] = {}
        self._newest: dict[tuple[str, ObjectName], Observed | Vanished] = {}
        self._reached: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._lists) + len(self._newest)

    def keep(self, fact: Fact) -> None:
        """Take a fact. A list replaces all that was known of its kind, and what comes later stands beside it."""
        match fact:
            case Observed(item):
                self._newest.pop((item.kind, item.name), None)
                self._newest[item.kind, item.name] = fact
                self._reach(item.kind, item.resource_version)
            case Vanished(kind, name, resource_version=version):
                self._newest.pop((kind, name), None)
                self._newest[kind, name] = fact
                self._reach(kind, version)
            case Listed(kind, version):
                self._newest = {key: held for key, held in self._newest.items() if key[0] != kind}
                self._lists[kind] = fact
                self._reached.pop(kind, None)
                self._reach(kind, version)
            case Absent():
                return

    def forget_written(self, book: Book) -> set[str]:
        """Let go of what the log says already; kinds of which it says all that their list does.

        What stands beside a list stays as long as the list does: the list alone would be news from the past. A list
        that is older than the log stays too, though the log says the same: the cluster may have gone back, and then
        whoever leads next has to find out (as the leader has), for the log shows it to nobody.
        """
        written = {kind for kind, listed in self._lists.items() if self._is_written(book, listed)}
        settled = written | {kind for kind, listed in self._lists.items() if self._is_said(book, listed)}
        for kind in written:
            listed = self._lists.pop(kind)
            book.hear(kind, listed.resource_version, in_round=False)
            for item in listed.objects:
                book.see_unchanged(item)
        for key, fact in list(self._newest.items()):
            if key[0] in self._lists:
                continue
            known = book.get(*key)
            verdict, _ = observe(known, fact.object) if isinstance(fact, Observed) else vanish(known, fact)
            if verdict == "written":
                continue
            if isinstance(fact, Observed):
                book.see_unchanged(fact.object)
            else:
                book.hear(fact.kind, fact.resource_version, in_round=False)
            del self._newest[key]
        return settled

    def take(self) -> list[Fact]:
        """Hand everything over, lists first."""
        facts: list[Fact] = [*self._lists.values(), *self._newest.values()]
        self._lists.clear()
        self._newest.clear()
        self._reached.clear()
        return facts

    def _reach(self, kind: str, version: str) -> None:
        self._reached[kind] = max(self._reached.get(kind, 0), number(version) or 0)

    def _is_written(self, book: Book, listed: Listed) -> bool:
        """Whether the log says all of a list, but for what this watch has told since.

        A log that is ahead of the list makes it suspect, unless the watch that followed it has come as far.
        """
        difference = compare(book.objects(listed.kind), listed)
        if difference.panic or difference.suspect > self._reached.get(listed.kind, 0):
            return False
        return self._is_news(difference, listed.kind)

    def _is_said(self, book: Book, listed: Listed) -> bool:
        """Whether the log says all of a list and nothing else, whichever of them is older."""
        believed = msgspec.structs.replace(listed, confirming=True)
        return self._is_news(compare(book.objects(listed.kind), believed, suspected=_WHATEVER), listed.kind)

    def _is_news(self, difference: ListDifference, kind: str) -> bool:
        """Whether the watch has told since of all that is different."""
        names = (change.object.name if isinstance(change, Applied) else change.name for change in difference.changes)
        return all((kind, name) in self._newest for name in names)
