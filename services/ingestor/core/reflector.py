"""What to ask the API server next: list, then watch, of one kind, as a state machine without clocks or sockets.

The model is kopf's `watching.py` and the rules of Kubernetes' "Efficient detection of changes": begin with a watch
that sends what there is (a streaming list, KEP 3157) where the server has that, else list in pages; go on from the
list's version with bookmarks, and after `410 Gone` list again. A streaming list that breaks off is followed by pages.
Every failure costs one step of a back-off with jitter, `Retry-After` is honoured, and a server that hangs up at once
counts as failing, so that no answer of a server makes us hammer it. The version to resume from is the last one seen
in a line, a bookmark included. `runner` performs the actions and feeds the outcomes back.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from services.ingestor.core.observations import Absent, Fact, Listed, ObjectName, Observed, Projected, Vanished
from shared.timing.backoff import Backoff


class FetchPage(msgspec.Struct, frozen=True):
    """Ask for a page of the list; an empty token begins a new list."""

    continue_token: str = ""


class StreamList(msgspec.Struct, frozen=True):
    """Open a watch that first sends every object there is, says where that ends, and goes on."""


class OpenWatch(msgspec.Struct, frozen=True):
    """Watch from this version on."""

    resource_version: str


class Wait(msgspec.Struct, frozen=True):
    """Do nothing for so many seconds, then `then`."""

    seconds: float
    then: FetchPage | StreamList | OpenWatch
    why: str


Action = FetchPage | StreamList | OpenWatch | Wait


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
    ends_list: bool = False
    """All that there was has been sent."""


class Skipped(msgspec.Struct, frozen=True):
    """A line of an unknown type, or about an object that cannot be read: counted by the runner, else ignored."""

    why: str
    resource_version: str = ""
    unreadable: ObjectName | None = None
    """Which object could not be read, if that much is known."""
    nameless: bool = False
    """An object could not be read, not even its name."""


Line = Changed | Removed | Bookmark | Skipped


class Limits(msgspec.Struct, frozen=True):
    """Seconds."""

    retry: Backoff = Backoff(first=0.2, longest=3.0, jitter=(0.5, 1.5))
    """An API that was gone for minutes is followed again within seconds of its return: half as much more at most."""
    retry_after_cap: float = 120.0
    absent: Backoff = Backoff(first=2.0, longest=30.0, jitter=(0.8, 1.2))
    """Between two looks for a kind that the server does not serve."""
    absent_confirmed: float = 60.0
    """A kind gone for so long, by discovery's own word, is gone with all its objects."""
    lasting: float = 5.0
    """A watch that lived so long was a good one: the back-off starts anew."""


_NO_STREAMS = (400, 422)
"""What a server answers that does not know `sendInitialEvents`, or may not use it."""


class _Stream(msgspec.Struct):
    """A streaming list on its way."""

    objects: dict[ObjectName, Projected] = {}
    unreadable: set[ObjectName] = set()
    complete: bool = True


class Counts(msgspec.Struct):
    """Hot counters, read by metrics."""

    lists: int = 0
    streamed: int = 0
    """Of the lists: those that came as a stream."""
    watches: int = 0
    failures: int = 0
    gone: int = 0
    skipped: int = 0


class Reflector:
    """The state of one kind. `jitter` gives numbers in [0, 1); times are seconds of any steady clock."""

    def __init__(
        self, kind: str, *, jitter: Callable[[], float], limits: Limits | None = None, streams: bool = True
    ) -> None:
        """`streams`: whether to try streaming lists at all."""
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
        self._streams = streams
        self._stream: _Stream | None = None
        self._pages_next = False
        self._confirming = False
        self._watch_since = 0.0
        self._watch_lines = 0

    @property
    def streaming(self) -> bool:
        """Whether the lines of the watch are still the list."""
        return self._stream is not None

    def begin(self) -> Step:
        """The first action."""
        self._forget()
        return Step(action=self._whole())

    def page(self, page: Page) -> Step:
        """A page arrived."""
        self._absent_since, self._absences, self._absence_told = None, 0, False
        self._pages.append(page)
        if page.continue_token:
            return Step(action=FetchPage(page.continue_token))
        pages, self._pages = self._pages, []
        listed = self._listed(
            page.resource_version,
            tuple(item for each in pages for item in each.objects),
            unreadable=frozenset(name for each in pages for name in each.unreadable),
            complete=all(each.complete for each in pages),
        )
        return Step(action=OpenWatch(page.resource_version), facts=(listed,))

    def opened(self, now: float) -> None:
        """The watch was accepted: nothing fails any more, though its first line may be a minute away."""
        self.failing = ""
        self._accepted(now)

    def _accepted(self, now: float) -> None:
        self.counts.watches += 1
        self._watch_since, self._watch_lines = now, 0

    def streamed(self, now: float) -> None:
        """The watch that begins with the list was accepted."""
        self._accepted(now)
        self._absent_since, self._absences, self._absence_told = None, 0, False
        self._stream = _Stream()

    def stream_refused(self, failure: Failure, now: float) -> Step:
        """The watch that was to begin with the list was not accepted."""
        if failure.status in _NO_STREAMS:
            # The server does not have them, or they are turned off: pages, at once and from now on.
            self._streams = False
            return Step(action=FetchPage())
        return self.failed(failure, now)

    def line(self, line: Line) -> tuple[Fact, ...]:
        """A line of the watch other than ERROR."""
        if self._stream is not None:
            return self._part_of_list(self._stream, line)
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

    def _part_of_list(self, stream: _Stream, line: Line) -> tuple[Fact, ...]:
        match line:
            case Changed(item):
                stream.objects[item.name] = item
                stream.unreadable.discard(item.name)
            case Removed(fact):
                stream.objects.pop(fact.name, None)
                stream.unreadable.discard(fact.name)
            case Skipped(unreadable=name, nameless=nameless):
                self.counts.skipped += 1
                stream.complete = stream.complete and not nameless
                if name is not None:
                    stream.objects.pop(name, None)
                    stream.unreadable.add(name)
            case Bookmark(version, ends_list):
                if not (ends_list and version):
                    return ()
                self._stream, self._attempt = None, 0
                self._watch_lines += 1
                self.counts.streamed += 1
                listed = self._listed(
                    version,
                    tuple(stream.objects.values()),
                    unreadable=frozenset(stream.unreadable),
                    complete=stream.complete,
                )
                return (listed,)
        return ()

    def _listed(
        self, version: str, objects: tuple[Projected, ...], *, unreadable: frozenset[ObjectName], complete: bool
    ) -> Listed:
        listed = Listed(
            kind=self.kind,
            resource_version=version,
            objects=objects,
            unreadable=unreadable,
            complete=complete,
            confirming=self._confirming,
        )
        self._confirming = self._pages_next = False
        self._resource_version = version
        self.synced = True
        self.failing = ""
        self.counts.lists += 1
        return listed

    def closed(self, now: float) -> Step:
        """The server ended the watch in good order: resume where it ended."""
        if self._stream is not None:
            return self.failed(Failure("the list ended before its end"), now)
        if self._watch_lines or now - self._watch_since >= self._limits.lasting:
            self._attempt = 0
            return Step(action=OpenWatch(self._resource_version))
        return Step(action=self._back_off(OpenWatch(self._resource_version), Failure("closed at once")))

    def failed(self, failure: Failure, now: float) -> Step:
        """A list or a watch failed. A list that was under way starts anew; it says nothing about deletions."""
        self.counts.failures += 1
        self.failing = failure.why
        listing = not self._resource_version or bool(self._pages) or self._stream is not None
        self._pages_next = self._pages_next or self._stream is not None
        self._pages, self._stream = [], None
        if failure.status in (404, 410):
            # Gone: the version is too old, or the path is (a CRD that no longer serves this version).
            self.counts.gone += failure.status == 410
            self._resource_version = ""
            return Step(action=self._back_off(self._whole(), failure))
        if self._watch_lines or (self._watch_since and now - self._watch_since >= self._limits.lasting):
            self._attempt = 0
        then = self._whole() if listing else OpenWatch(self._resource_version)
        return Step(action=self._back_off(then, failure))

    def absent(self, now: float) -> Step:
        """Discovery works and does not name the kind (its CRD is missing)."""
        self._forget()
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
        seconds = self._limits.absent.delay(self._absences - 1, self._jitter)
        return Step(action=Wait(seconds, self._whole(), "absent"), facts=facts)

    def again(self, *, confirming: bool = False) -> Step:
        """Somebody doubts the state: list again, after one step of back-off."""
        self._forget()
        self._confirming = confirming
        return Step(action=self._back_off(self._whole(), Failure("doubt")))

    def _forget(self) -> None:
        self._pages, self._stream = [], None
        self._resource_version = ""

    def _whole(self) -> FetchPage | StreamList:
        # What confirms a doubtful list is asked for in the other way, past every cache of the server.
        pages = not self._streams or self._pages_next or self._confirming
        return FetchPage() if pages else StreamList()

    def _back_off(self, then: FetchPage | StreamList | OpenWatch, failure: Failure) -> Wait:
        limits = self._limits
        seconds = limits.retry.delay(self._attempt, self._jitter)
        self._attempt += 1
        asked = min(failure.retry_after, limits.retry_after_cap)
        return Wait(max(seconds, asked), then, failure.why)
