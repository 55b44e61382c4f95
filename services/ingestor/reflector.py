"""What to ask the API server next: list, then watch, of one kind, as a state machine without clocks or sockets.

The model is kopf's `watching.py` and the rules of Kubernetes' "Efficient detection of changes": list in pages,
watch from the list's version with bookmarks, and after `410 Gone` list again. Every failure costs one step of a
back-off with jitter, `Retry-After` is honoured, and a server that hangs up at once counts as failing, so that no
answer of a server makes us hammer it. The version to resume from is the last one seen in a line, a bookmark
included. `runner` performs the actions and feeds the outcomes back.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from services.ingestor.facts import Absent, Fact, Listed, ObjectName, Observed, Projected, Vanished


class FetchPage(msgspec.Struct, frozen=True):
    """Ask for a page of the list; an empty token begins a new list."""

    continue_token: str = ""


class OpenWatch(msgspec.Struct, frozen=True):
    """Watch from this version on."""

    resource_version: str


class Wait(msgspec.Struct, frozen=True):
    """Do nothing for so many seconds, then `then`."""

    seconds: float
    then: FetchPage | OpenWatch
    why: str


Action = FetchPage | OpenWatch | Wait


class Step(msgspec.Struct, frozen=True):
    """What follows from an input: facts for the writer, then the next action."""

    action: Action
    facts: tuple[Fact, ...] = ()


class Page(msgspec.Struct, frozen=True):
    """One page of a list, projected already."""

    resource_version: str
    objects: tuple[Projected, ...]
    unreadable: frozenset[ObjectName] = frozenset()
    complete: bool = True
    continue_token: str = ""


class Failure(msgspec.Struct, frozen=True):
    """A request or a stream that failed."""

    why: str
    """Short, for logs and metrics: `http 503`, `connection`, `silence`, …"""
    status: int = 0
    """HTTP status, or `code` of an ERROR line; 0: none."""
    retry_after: float = 0.0
    """Seconds that the server asked us to wait."""


class Changed(msgspec.Struct, frozen=True):
    """An ADDED or MODIFIED line."""

    object: Projected


class Removed(msgspec.Struct, frozen=True):
    """A DELETED line."""

    fact: Vanished


class Bookmark(msgspec.Struct, frozen=True):
    """A BOOKMARK line; empty if it did not say a version."""

    resource_version: str


class Skipped(msgspec.Struct, frozen=True):
    """A line of an unknown type, or about an object that cannot be read: counted by the runner, else ignored."""

    why: str
    resource_version: str = ""


Line = Changed | Removed | Bookmark | Skipped


class Limits(msgspec.Struct, frozen=True):
    """Seconds."""

    backoff_base: float = 0.2
    backoff_cap: float = 30.0
    retry_after_cap: float = 120.0
    absent_base: float = 2.0
    """A kind that the server does not serve is looked for again after this, doubling up to the cap."""
    absent_cap: float = 30.0
    absent_confirmed: float = 60.0
    """A kind gone for so long, by discovery's own word, is gone with all its objects."""
    lasting: float = 5.0
    """A watch that lived so long was a good one: the back-off starts anew."""


class Counts(msgspec.Struct):
    """Hot counters, read by metrics."""

    lists: int = 0
    watches: int = 0
    failures: int = 0
    gone: int = 0
    skipped: int = 0


class Reflector:
    """The state of one kind. `jitter` gives numbers in [0, 1); times are seconds of any steady clock."""

    def __init__(self, kind: str, *, jitter: Callable[[], float], limits: Limits | None = None) -> None:
        self.kind = kind
        self.counts = Counts()
        self.synced = False
        """A list has been handed over since the start (or the kind is known to be absent)."""
        self.failing = ""
        """Why the newest attempt failed; empty while all is well."""
        self._jitter = jitter
        self._limits = limits or Limits()
        self._resource_version = ""
        self._attempt = 0
        self._absences = 0
        self._absent_since: float | None = None
        self._absence_told = False
        self._pages: list[Page] = []
        self._confirming = False
        self._watch_since = 0.0
        self._watch_lines = 0

    def begin(self) -> Step:
        """The first action."""
        return self._list()

    def page(self, page: Page) -> Step:
        """A page arrived."""
        self._absent_since, self._absences, self._absence_told = None, 0, False
        self._pages.append(page)
        if page.continue_token:
            return Step(action=FetchPage(page.continue_token))
        pages, self._pages = self._pages, []
        listed = Listed(
            kind=self.kind,
            resource_version=page.resource_version,
            objects=tuple(item for each in pages for item in each.objects),
            unreadable=frozenset(name for each in pages for name in each.unreadable),
            complete=all(each.complete for each in pages),
            confirming=self._confirming,
        )
        self._confirming = False
        self._resource_version = page.resource_version
        self.synced = True
        self.failing = ""
        self.counts.lists += 1
        return Step(action=OpenWatch(page.resource_version), facts=(listed,))

    def opened(self, now: float) -> None:
        """The watch was accepted."""
        self.counts.watches += 1
        self._watch_since, self._watch_lines = now, 0

    def line(self, line: Line) -> tuple[Fact, ...]:
        """A line of the watch other than ERROR."""
        self._watch_lines += 1
        self._attempt = 0
        self.failing = ""
        match line:
            case Changed(item):
                self._resource_version = item.resource_version or self._resource_version
                return (Observed(item),)
            case Removed(fact):
                self._resource_version = fact.resource_version or self._resource_version
                return (fact,)
            case Bookmark(version):
                self._resource_version = version or self._resource_version
            case Skipped(resource_version=version):
                self._resource_version = version or self._resource_version
                self.counts.skipped += 1
        return ()

    def closed(self, now: float) -> Step:
        """The server ended the watch in good order: resume where it ended."""
        if self._watch_lines or now - self._watch_since >= self._limits.lasting:
            self._attempt = 0
            return Step(action=OpenWatch(self._resource_version))
        return Step(action=self._back_off(OpenWatch(self._resource_version), Failure("closed at once")))

    def failed(self, failure: Failure, now: float) -> Step:
        """A list or a watch failed. A list that was under way starts anew; it says nothing about deletions."""
        self.counts.failures += 1
        self.failing = failure.why
        listing = not self._resource_version or bool(self._pages)
        self._pages = []
        if failure.status in (404, 410):
            # Gone: the version is too old, or the path is (a CRD that no longer serves this version).
            self.counts.gone += failure.status == 410
            self._resource_version = ""
            return Step(action=self._back_off(FetchPage(), failure))
        if self._watch_lines or (self._watch_since and now - self._watch_since >= self._limits.lasting):
            self._attempt = 0
        then = FetchPage() if listing else OpenWatch(self._resource_version)
        return Step(action=self._back_off(then, failure))

    def absent(self, now: float) -> Step:
        """Discovery works and does not name the kind (its CRD is missing)."""
        self._pages = []
        self._resource_version = ""
        self._attempt = 0
        self.failing = ""
        self.synced = True
        if self._absent_since is None:
            self._absent_since, self._absences = now, 0
        self._absences += 1
        facts: tuple[Fact, ...] = (Absent(self.kind),)
        if self._absences > 2 and now - self._absent_since >= self._limits.absent_confirmed and not self._absence_told:
            self._absence_told = True
            facts = (Listed(kind=self.kind, resource_version="", objects=(), confirming=True),)
        seconds = min(self._limits.absent_cap, self._limits.absent_base * 2 ** min(self._absences - 1, 10))
        return Step(action=Wait(seconds * (0.8 + 0.4 * self._jitter()), FetchPage(), "absent"), facts=facts)

    def again(self, *, confirming: bool = False) -> Step:
        """Somebody doubts the state: list again, after one step of back-off."""
        self._pages = []
        self._resource_version = ""
        self._confirming = confirming
        return Step(action=self._back_off(FetchPage(), Failure("doubt")))

    def _list(self) -> Step:
        self._pages = []
        self._resource_version = ""
        return Step(action=FetchPage())

    def _back_off(self, then: FetchPage | OpenWatch, failure: Failure) -> Wait:
        limits = self._limits
        step = min(limits.backoff_cap, limits.backoff_base * 2 ** min(self._attempt, 16))
        self._attempt += 1
        seconds = step * (0.5 + self._jitter())
        asked = min(failure.retry_after, limits.retry_after_cap)
        return Wait(max(seconds, asked), then, failure.why)
