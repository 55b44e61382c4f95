"""What a standby knows that the log may not: facts kept until the leader has written them, and handed over when not.

A standby's watches run like the leader's. Its facts pile up here, the newest of each object, and are let go as soon as
the log says the same; so what is left when the leader dies is exactly what the leader had not written.
"""

from __future__ import annotations

from services.ingestor.book import Book
from services.ingestor.difference import compare, observe, vanish
from services.ingestor.facts import Absent, Fact, Listed, ObjectName, Observed, Vanished


class Standby:
    """Facts by kind and object, mutable; owned by the writer."""

    def __init__(self) -> None:
        self._lists: dict[str, Listed] = {}
        self._newest: dict[tuple[str, ObjectName], Observed | Vanished] = {}

    def __len__(self) -> int:
        return len(self._lists) + len(self._newest)

    def keep(self, fact: Fact) -> None:
        """Take a fact. A list replaces all that was known of its kind, and what comes later stands beside it."""
        match fact:
            case Observed(item):
                self._newest.pop((item.kind, item.name), None)
                self._newest[item.kind, item.name] = fact
            case Vanished(kind, name):
                self._newest.pop((kind, name), None)
                self._newest[kind, name] = fact
            case Listed(kind):
                self._newest = {key: held for key, held in self._newest.items() if key[0] != kind}
                self._lists[kind] = fact
            case Absent():
                return

    def forget_written(self, book: Book) -> set[str]:
        """Let go of what the log says already; kinds whose list is among it."""
        settled = {
            kind
            for kind, listed in self._lists.items()
            if not (difference := compare(book.objects(kind), listed)).changes
            and not (difference.suspect or difference.panic)
        }
        for kind in settled:
            for item in self._lists.pop(kind).objects:
                book.see_unchanged(item)
        for key, fact in list(self._newest.items()):
            known = book.get(*key)
            verdict, _ = observe(known, fact.object) if isinstance(fact, Observed) else vanish(known, fact)
            if verdict == "written":
                continue
            if isinstance(fact, Observed):
                book.see_unchanged(fact.object)
            del self._newest[key]
        return settled

    def take(self) -> list[Fact]:
        """Hand everything over, lists first."""
        facts: list[Fact] = [*self._lists.values(), *self._newest.values()]
        self._lists.clear()
        self._newest.clear()
        return facts
