"""Writes back on policy objects what became of them: conditions in their status, and an event when it turned bad.

Beside everything else and far from the compile: it follows commits and statuses as any reader of the log, looks at
most once a second, and writes so many objects a second at most, each again only after a while. What it cannot write
changes nothing in the mesh. Only the leader of the ingestors writes; a standby looks on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Literal

import msgspec

from services.ingestor.book import Book
from services.ingestor.conditions import Condition, Verdict, conditions, news
from services.ingestor.facts import Fact, Listed, ObjectName, Observed, Projected, Vanished
from services.ingestor.reach import Reach
from shared import blob, model, support
from shared.eventlog.protocol import ChainBrokenError, EventLog, LogUnavailableError, Record
from shared.events import ObjectKey
from shared.snapshot import SnapshotError, decode_commit
from shared.status import status_in
from shared.subjects import Streams

_log = logging.getLogger(__name__)


class Report(msgspec.Struct, frozen=True):
    """What is to be written on one object."""

    object: Projected
    conditions: tuple[Condition, ...]
    news: tuple[tuple[str, str], ...]
    """Reason and message of each event."""


NOT_SUPPORTED = "mesh/not-supported-yet"

Outcome = Literal["written", "refused", "later"]
"""Of writing a report: `refused` is the object's own fault, `later` everybody's."""


class Pace(msgspec.Struct, frozen=True):
    """Seconds."""

    look: float = 1.0
    """Between two looks at what has changed, at least."""
    write: float = 0.1
    """Between two objects."""
    again: float = 5.0
    """Until the same object is written again."""
    refused: float = 600.0
    """Until an object is tried again whose status the API server does not take."""
    stand_by: float = 5.0
    """As a standby: between looks at whether to write."""
    outage: float = 10.0
    """After a failure of the API server or of the log."""


class Reporter:
    """Reports on the objects of one cluster. `note` every fact; `follow_commits`, `follow_statuses` and `run` once."""

    def __init__(
        self,
        reach: Reach,
        book: Book,
        write: Callable[[Report], Awaitable[Outcome]],
        *,
        cluster: str,
        kinds: Collection[str],
        mesh_namespace: str,
        now: Callable[[], str],
        clock: Callable[[], float],
        leads: Callable[[], bool] = lambda: True,
        pace: Pace | None = None,
    ) -> None:
        """`now` is RFC 3339."""
        self.counts: dict[Outcome, int] = {"written": 0, "refused": 0, "later": 0}
        self._reach = reach
        self._book = book
        self._write = write
        self._cluster = cluster
        self._kinds = frozenset(kinds)
        self._mesh_namespace = mesh_namespace
        self._now = now
        self._clock = clock
        self._leads = leads
        self._pace = pace or Pace()
        self._seen: dict[tuple[str, ObjectName], Projected] = {}
        self._hold: dict[tuple[str, ObjectName], float] = {}
        self._told: dict[tuple[str, ObjectName], list[tuple[str, ...]]] = {}
        self._stirred = asyncio.Event()

    # What happens

    def note(self, fact: Fact) -> None:
        """Take what a reflector says, before or after the writer has."""
        match fact:
            case Observed(item) if item.kind in self._kinds:
                self._seen[item.kind, item.name] = item
            case Vanished(kind, name):
                self._seen.pop((kind, name), None)
                self._hold.pop((kind, name), None)
                self._told.pop((kind, name), None)
            case Listed(kind) if kind in self._kinds:
                self._seen = {key: held for key, held in self._seen.items() if key[0] != kind}
                self._seen |= {(kind, item.name): item for item in fact.objects}
            case _:
                return
        self._stirred.set()

    async def follow_commits(self, snapshots: EventLog, keyframes: EventLog, streams: Streams) -> None:
        """Fold commits for ever, from the newest keyframe on; what cannot be folded leads back to it."""
        while True:
            try:
                newest = await blob.newest(keyframes, streams.keyframe_subject)
                if newest is not None:
                    self._reach.take_commit(decode_commit(newest[1]))
                assembler = blob.Assembler()
                async for record in snapshots.follow(subjects=streams.snapshot_subject):
                    try:
                        payload = assembler.feed(record)
                    except blob.BlobError as error:
                        # It stays so however often it is read; whether it is missed shows with the next commit.
                        _log.warning("a commit is passed over for reports: %s", error)
                        continue
                    commit = decode_commit(payload) if payload is not None else None
                    if commit is not None and commit.version > self._reach.version:
                        self._reach.take_commit(commit)
                        self._stirred.set()
            except (SnapshotError, blob.BlobError, ChainBrokenError, LogUnavailableError) as error:
                _log.warning("commits cannot be followed for reports now: %s", error)
            await asyncio.sleep(self._pace.outage)

    async def follow_statuses(self, statuses: EventLog, streams: Streams) -> None:
        """Fold the proxies' statuses for ever."""
        while True:
            try:
                for record in await statuses.last_per_subject(streams.all_status):
                    self._take_status(record, streams)
                _, last = await statuses.bounds()
                async for record in statuses.follow(start=last + 1, subjects=streams.all_status):
                    self._take_status(record, streams)
                    self._stirred.set()
            except (ChainBrokenError, LogUnavailableError) as error:
                _log.warning("statuses cannot be followed for reports now: %s", error)
            await asyncio.sleep(self._pace.outage)

    def _take_status(self, record: Record, streams: Streams) -> None:
        status = status_in(record, streams)
        if status is not None:
            self._reach.take_status(status)

    # What is written

    async def run(self) -> None:
        """Report for ever."""
        until = math.inf
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if math.isinf(until) else max(0.0, until - self._clock())):
                    await self._stirred.wait()
            if not self._leads():
                await asyncio.sleep(self._pace.stand_by)
                continue
            self._stirred.clear()
            until = await self.turn()
            await asyncio.sleep(self._pace.look)

    async def turn(self) -> float:
        """Write what is due now; when to look again, even if nothing happens (a time of the clock)."""
        reports, until = self.due()
        for report in reports:
            key = (report.object.kind, report.object.name)
            if self._seen.get(key) is not report.object or not self._leads():
                return self._clock()
            outcome = await self._write(report)
            self.counts[outcome] += 1
            if outcome == "later":
                await asyncio.sleep(self._pace.outage)
                return self._clock()
            # What was written is seen by the watch. If it is to be written again all the same, the server takes it
            # and keeps something else (its schema prunes, say).
            told = _told(report.conditions)
            vain = outcome == "refused" or self._told.get(key) == told
            self._told[key] = told
            self._hold[key] = self._clock() + (self._pace.refused if vain else self._pace.again)
            await asyncio.sleep(self._pace.write)
        return until

    def due(self) -> tuple[list[Report], float]:
        """Objects whose status does not say what is the case, if it is their turn; when the next one's turn is."""
        found: list[Report] = []
        now, until = self._clock(), math.inf
        for key in sorted(self._seen):
            report = self._report(self._seen[key])
            if report is None:
                continue
            held = self._hold.get(key, 0.0)
            if held > now:
                until = min(until, held)
            else:
                found.append(report)
        return found, until

    def _report(self, item: Projected) -> Report | None:
        namespace = item.name.namespace
        if namespace != self._mesh_namespace and namespace not in self._reach.namespaces:
            return None
        known = self._book.get(item.kind, item.name)
        if known is None or not known.lives or known.uid != item.uid or known.digest != item.digest:
            return None
        if not 0 < known.sequence <= self._reach.version:
            return None
        before = _conditions_in(item.status)
        verdict = self._verdict(item, known.sequence)
        after = conditions(verdict, generation=item.generation, before=before, now=self._now())
        if _told(before) == _told(after):
            return None
        return Report(object=item, conditions=tuple(after), news=tuple(news(before, after)))

    def _verdict(self, item: Projected, sequence: int) -> Verdict:
        key = ObjectKey(cluster=self._cluster, kind=item.kind, namespace=item.name.namespace, name=item.name.name)
        concerned = self._reach.concerned(key)
        waiting = sorted(proxy for proxy in concerned if not self._reach.holds(proxy, sequence))
        whole, missing = _missing(item.kind, item.body)
        reasons = [(one.code, one.sentence) for one in self._reach.left_out(key)]
        refused = tuple((_short(proxy), said) for proxy in waiting if (said := self._reach.refusal(proxy)))
        return Verdict(
            version=sequence,
            left_out=((NOT_SUPPORTED, missing),) if whole else tuple(reasons),
            unsupported="" if whole else missing,
            concerned=len(concerned),
            waiting=tuple(map(_short, waiting)),
            refused=refused,
        )


@functools.lru_cache(maxsize=4096)
def _missing(kind: str, body: bytes) -> tuple[bool, str]:
    """Whether the kind as a whole is not supported yet, and what to say about it or about the fields that are not."""
    found = support.findings(kind, msgspec.json.decode(body, type=model.PolicyObject).spec)
    whole = any(not one.path and one.support.state == "not yet" for one in found)
    return whole, support.sentence(found)


def _short(proxy: str) -> str:
    return proxy.partition("/")[2]


def _told(held: Sequence[Condition]) -> list[tuple[str, ...]]:
    parts = ("type", "status", "reason", "message", "observedGeneration")
    return sorted(tuple(str(each.get(part, "")) for part in parts) for each in held)


class _Status(msgspec.Struct):
    conditions: list[Condition] = []


def _conditions_in(status: bytes) -> list[Condition]:
    """The conditions in a status; whatever else somebody wrote there counts as none."""
    try:
        return msgspec.json.decode(status, type=_Status).conditions if status else []
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        return []
