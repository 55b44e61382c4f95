"""State machine that lists and then watches one kind, without clocks or sockets.

The model is kopf's `watching.py` and the rules of Kubernetes' "Efficient detection of changes": begin with a watch
that first sends every existing object (a streaming list, KEP 3157) if the server supports it, else list in pages;
continue from the list's version with bookmarks, and after `410 Gone` list again. A streaming list that breaks off is
followed by pages. Every failure costs one step of a back-off with jitter, `Retry-After` is honoured, and a server that
closes a watch at once counts as failing, so that no answer of a server causes a tight loop. A watch resumes from the
version of its last line, bookmarks included. `ReflectorRunner` performs the actions and reports their outcomes.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from services.ingestor.core.observations import (
    KindAbsent,
    KindListed,
    NamespacedName,
    ObjectDeleted,
    ObjectUpdated,
    Observation,
    Projected,
)
from shared.timing.backoff import Backoff


class FetchPage(msgspec.Struct, frozen=True):
    """Request a page of the list; an empty token begins a new list."""

    continue_token: str = ""


class StreamList(msgspec.Struct, frozen=True):
    """Open a watch that first sends every existing object, marks the end of these, and continues with changes."""


class OpenWatch(msgspec.Struct, frozen=True):
    """Watch from this resource version on."""

    resource_version: str


class Wait(msgspec.Struct, frozen=True):
    """Wait for some seconds, then perform `then`."""

    seconds: float
    then: FetchPage | StreamList | OpenWatch
    why: str


Action = FetchPage | StreamList | OpenWatch | Wait


class Step(msgspec.Struct, frozen=True):
    """The result of an input: observations for the writer, then the next action."""

    action: Action
    observations: tuple[Observation, ...] = ()


class ListPage(msgspec.Struct, frozen=True):
    """One page of a list."""

    part: KindListed
    """The objects of this page, projected."""
    continue_token: str = ""
    """Token of the next page; empty: this is the last."""


class Failure(msgspec.Struct, frozen=True):
    """A failed request or watch."""

    why: str
    """Short, for logs and metrics: `http 503`, `connection`, `silence`, …"""
    status: int = 0
    """HTTP status, or `code` of an ERROR line; 0: none."""
    retry_after: float = 0.0
    """Seconds that the server requested to wait."""


SILENCE = "silence"
"""`Failure.why` of a watch that sent nothing for too long."""


class Bookmark(msgspec.Struct, frozen=True):
    """A BOOKMARK line."""

    resource_version: str
    """Empty if the line has none."""
    ends_list: bool = False
    """Every existing object has been sent."""


class SkippedLine(msgspec.Struct, frozen=True):
    """A line of an unknown type, or about an unreadable object: counted by the runner, else ignored."""

    why: str
    resource_version: str = ""
    unreadable: NamespacedName | None = None
    """Name of the unreadable object, if its name can be read."""
    nameless: bool = False
    """Not even the name of the object can be read."""


WatchLine = ObjectUpdated | ObjectDeleted | Bookmark | SkippedLine


class ReflectorLimits(msgspec.Struct, frozen=True):
    """Delays and limits of one reflector, in seconds."""

    retry: Backoff = Backoff(first=0.2, longest=3.0, jitter=(0.5, 1.5))
    """Between attempts. An API that was away for minutes is followed again within 4.5 s of its return."""
    retry_after_cap: float = 120.0
    """Most that `Retry-After` is honoured for."""
    absent: Backoff = Backoff(first=2.0, longest=30.0, jitter=(0.8, 1.2))
    """Between two checks for a kind that the server does not serve."""
    absent_confirmed: float = 60.0
    """A kind that discovery has not listed for so long is deleted with all its objects."""
    lasting: float = 5.0
    """A watch that lasted so long resets the back-off."""


_NO_STREAMS = (400, 422)
"""HTTP statuses of a server that does not support `sendInitialEvents`, or has it disabled."""


class _StreamedList(msgspec.Struct):
    """A streaming list in progress."""

    objects: dict[NamespacedName, Projected] = {}
    unreadable: set[NamespacedName] = set()
    complete: bool = True


class ReflectorCounts(msgspec.Struct):
    """Counters since the start, read by metrics."""

    lists: int = 0
    streamed: int = 0
    """Of the lists: streaming lists."""
    watches: int = 0
    failures: int = 0
    gone: int = 0
    skipped: int = 0


class Reflector:
    """The state of one kind. `jitter` returns numbers in [0, 1); times are seconds of any monotonic clock."""

    def __init__(
        self, kind: str, *, jitter: Callable[[], float], limits: ReflectorLimits | None = None, streams: bool = True
    ) -> None:
        """`streams`: whether to try streaming lists."""
        self.kind = kind
        self.counts = ReflectorCounts()
        self.synced = False
        """A list was delivered since the start, or the kind is known to be absent."""
        self.failing = ""
        """Why the newest attempt failed; empty if it succeeded."""
        self._jitter = jitter
        self._limits = limits or ReflectorLimits()
        self._resource_version = ""
        self._attempt = 0
        self._absences = 0
        self._absent_since: float | None = None
        self._absence_reported = False
        self._pages: list[KindListed] = []
        self._streams = streams
        self._stream: _StreamedList | None = None
        self._pages_next = False
        self._confirming = False
        self._watch_since = 0.0
        self._watch_lines = 0

    @property
    def streaming(self) -> bool:
        """Whether the lines of the watch are still part of the list."""
        return self._stream is not None

    def begin(self) -> Step:
        """Returns the first action."""
        self._forget()
        return Step(action=self._list())

    def page(self, page: ListPage) -> Step:
        """Take a page; after the last, the list is complete."""
        self._is_served()
        self._pages.append(page.part)
        if page.continue_token:
            return Step(action=FetchPage(page.continue_token))
        parts, self._pages = self._pages, []
        version = page.part.resource_version
        listed = self._listed(
            version,
            tuple(item for part in parts for item in part.objects),
            unreadable=frozenset(name for part in parts for name in part.unreadable),
            complete=all(part.complete for part in parts),
        )
        return Step(action=OpenWatch(version), observations=(listed,))

    def opened(self, now: float) -> None:
        """The server accepted the watch: the failure has ended, although the first line may be a minute away."""
        self.failing = ""
        self._accepted(now)

    def _accepted(self, now: float) -> None:
        self.counts.watches += 1
        self._watch_since, self._watch_lines = now, 0

    def streamed(self, now: float) -> None:
        """The server accepted the watch that begins with the list."""
        self._accepted(now)
        self._is_served()
        self._stream = _StreamedList()

    def _is_served(self) -> None:
        self._absent_since, self._absences, self._absence_reported = None, 0, False

    def stream_refused(self, failure: Failure, now: float) -> Step:
        """The server refused the watch that was to begin with the list."""
        if failure.status in _NO_STREAMS:
            # Streaming lists are unsupported or disabled: use pages, at once and from now on.
            self._streams = False
            return Step(action=FetchPage())
        return self.failed(failure, now)

    def line(self, line: WatchLine) -> tuple[Observation, ...]:
        """Take a line of the watch other than ERROR; returns observations for the writer."""
        if self._stream is not None:
            return self._part_of_list(self._stream, line)
        self._watch_lines += 1
        self._attempt = 0
        self.failing = ""
        match line:
            case ObjectUpdated(item):
                self._resource_version = item.resource_version or self._resource_version
                return (line,)
            case ObjectDeleted(resource_version=version):
                self._resource_version = version or self._resource_version
                return (line,)
            case Bookmark(version):
                self._resource_version = version or self._resource_version
            case SkippedLine(resource_version=version):
                self._resource_version = version or self._resource_version
                self.counts.skipped += 1
        return ()

    def _part_of_list(self, stream: _StreamedList, line: WatchLine) -> tuple[Observation, ...]:
        match line:
            case ObjectUpdated(item):
                stream.objects[item.name] = item
                stream.unreadable.discard(item.name)
            case ObjectDeleted(name=name):
                stream.objects.pop(name, None)
                stream.unreadable.discard(name)
            case SkippedLine(unreadable=name, nameless=nameless):
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
        self, version: str, objects: tuple[Projected, ...], *, unreadable: frozenset[NamespacedName], complete: bool
    ) -> KindListed:
        listed = KindListed(
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
        """The server closed the watch without an error: resume where it ended."""
        if self._stream is not None:
            return self.failed(Failure("the list ended before its end"), now)
        if self._watch_lines or now - self._watch_since >= self._limits.lasting:
            self._attempt = 0
            return Step(action=OpenWatch(self._resource_version))
        return Step(action=self._back_off(OpenWatch(self._resource_version), Failure("closed at once")))

    def failed(self, failure: Failure, now: float) -> Step:
        """A list or a watch failed. A list in progress starts again; its part is dropped, so it deletes nothing."""
        self.counts.failures += 1
        self.failing = failure.why
        listing = not self._resource_version or bool(self._pages) or self._stream is not None
        self._pages_next = self._pages_next or self._stream is not None
        self._pages, self._stream = [], None
        if failure.status in (404, 410):
            # The resource version is too old, or the path is gone (a CRD that no longer serves this API version).
            self.counts.gone += failure.status == 410
            self._resource_version = ""
            return Step(action=self._back_off(self._list(), failure))
        if self._watch_lines or (self._watch_since and now - self._watch_since >= self._limits.lasting):
            self._attempt = 0
        then = self._list() if listing else OpenWatch(self._resource_version)
        return Step(action=self._back_off(then, failure))

    def absent(self, now: float) -> Step:
        """Discovery succeeds and does not contain the kind (its CRD is missing)."""
        self._forget()
        self._attempt = 0
        self.failing = ""
        self.synced = True
        if self._absent_since is None:
            self._absent_since, self._absences = now, 0
        self._absences += 1
        observation: Observation = KindAbsent(self.kind)
        confirmed = self._absences > 2 and now - self._absent_since >= self._limits.absent_confirmed
        if confirmed and not self._absence_reported:
            self._absence_reported = True
            observation = KindListed(kind=self.kind, resource_version="", objects=(), confirming=True)
        seconds = self._limits.absent.delay(self._absences - 1, self._jitter)
        return Step(action=Wait(seconds, self._list(), "absent"), observations=(observation,))

    def relist(self, *, confirming: bool = False) -> Step:
        """List again after one step of back-off. `confirming`: because the newest list looked older than the log."""
        self._forget()
        self._confirming = confirming
        return Step(action=self._back_off(self._list(), Failure("doubt")))

    def _forget(self) -> None:
        self._pages, self._stream = [], None
        self._resource_version = ""

    def _list(self) -> FetchPage | StreamList:
        # A confirming list is requested in pages, which bypass the server's watch cache.
        pages = not self._streams or self._pages_next or self._confirming
        return FetchPage() if pages else StreamList()

    def _back_off(self, then: FetchPage | StreamList | OpenWatch, failure: Failure) -> Wait:
        limits = self._limits
        seconds = limits.retry.delay(self._attempt, self._jitter)
        self._attempt += 1
        asked = min(failure.retry_after, limits.retry_after_cap)
        return Wait(max(seconds, asked), then, failure.why)
