"""Writes back on policy objects what became of them: conditions in their status, and an event when it turned bad.

Beside everything else and far from the compile: it looks at objects about which something else may be to be said, once
they have rested, and writes at a bounded rate, each object again only after a while. What it cannot write changes
nothing in the mesh. Only the leader of the ingestors writes; a standby looks on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence

import msgspec

from services.ingestor.core.object_index import Book
from services.ingestor.core.observations import Fact, Listed, ObjectName, Observed, Projected, Vanished
from services.ingestor.status.ack_progress import Reach
from services.ingestor.status.conditions import OURS, Condition, Verdict, conditions, news
from services.ingestor.status.reports import Key, Later, News, Outcome, Pace, Pinned, Report
from services.ingestor.status.schedule import Due
from services.ingestor.status.write_rate import Tempo
from shared import projected_objects
from shared.io.decoding import UndecodableError, decode
from shared.membership import mesh_of
from shared.policy import support_matrix
from shared.records.events import ObjectKey

_log = logging.getLogger(__name__)

NOT_SUPPORTED = "mesh/not-supported-yet"

_MOST_NEWS = 2000
"""Events that wait; of more the oldest are not told."""
_LOOK_AGAIN = 0.5
"""Seconds between looks at objects of which it is not known yet what became of them."""
_GLANCE = 0.1
"""Seconds between looks at what has come meanwhile, while statuses are written."""
_SLICE = 200
"""Objects that are judged without a pause, at most."""


class Reporter:
    """Reports on the objects of one cluster. `note` every fact; `run` and `run_news` once."""

    def __init__(
        self,
        reach: Reach,
        book: Book,
        write: Callable[[Report], Awaitable[Outcome | Later]],
        tell: Callable[[News], Awaitable[Outcome | Later]],
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
        self.events_told = 0
        self.events_dropped = 0
        self._reach = reach
        self._book = book
        self._write = write
        self._tell = tell
        self._cluster = cluster
        self._kinds = frozenset(kinds)
        self._mesh_namespace = mesh_namespace
        self._now = now
        self._clock = clock
        self._leads = leads
        self._pace = pace = pace or Pace()
        self._seen: dict[Key, Projected] = {}
        self._due: Due[Key] = Due(settle=pace.settle, overdue=pace.overdue)
        self._uncompiled: set[Key] = set()
        """Looked at before the compiler was that far."""
        self._late: dict[Key, float] = {}
        """When it was first seen that proxies lack the object."""
        self._told: dict[Key, list[tuple[str, ...]]] = {}
        self._pinned: Pinned | None = None
        self._unclaimed: set[str] = set()
        """Namespaces that no mesh claims by their label."""
        self._news: deque[News] = deque()
        self._mentioned: dict[ObjectKey, tuple[tuple[str, str], ...]] = {}
        self._tempo = Tempo(least=pace.least, most=pace.most, drain=pace.drain)
        self._writing: set[asyncio.Task[None]] = set()
        self._failure: Later | None = None
        self._stirred = asyncio.Event()
        self._newsworthy = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Objects that are to be looked at, now or later."""
        return len(self._due)

    # What happens

    def note(self, fact: Fact) -> None:
        """Take what a reflector says, before or after the writer has."""
        match fact:
            case Observed(item) if item.kind == "Namespace":
                self._claim(item)
            case Listed("Namespace"):
                for item in fact.objects:
                    self._claim(item)
            case Observed(item) if item.kind in self._kinds:
                self._see(item)
            case Vanished(kind, name):
                self._forget((kind, name))
            case Listed(kind) if kind in self._kinds:
                there = {(kind, item.name) for item in fact.objects}
                for key in [key for key in self._seen if key[0] == kind and key not in there]:
                    self._forget(key)
                for item in fact.objects:
                    self._see(item)
            case _:
                return
        self._stirred.set()

    def stir(self) -> None:
        """The reach has changed."""
        self._stirred.set()

    def pin(self, pinned: Pinned | None) -> None:
        """A pin is in force, or none."""
        if pinned != self._pinned:
            self._pinned = pinned
            self._stir_all()

    def _see(self, item: Projected) -> None:
        key, before = (item.kind, item.name), self._seen.get((item.kind, item.name))
        self._seen[key] = item
        if before is None or (before.uid, before.digest, before.generation) != (item.uid, item.digest, item.generation):
            self._due.changed(key, self._clock())
        elif before.status != item.status:
            self._due.stir(key, self._clock())

    def _forget(self, key: Key) -> None:
        self._seen.pop(key, None)
        self._due.forget(key)
        self._uncompiled.discard(key)
        self._late.pop(key, None)
        self._told.pop(key, None)

    def _claim(self, namespace: Projected) -> None:
        labels = msgspec.json.decode(namespace.body, type=projected_objects.Namespace).metadata.labels
        claimed = mesh_of(labels) is not None
        (self._unclaimed.discard if claimed else self._unclaimed.add)(namespace.name.name)

    def _stir_all(self) -> None:
        for key in self._seen:
            self._due.stir(key, self._clock())
        self._stirred.set()

    # What is written

    async def run(self) -> None:
        """Report for ever."""
        while True:
            next_time = self._due.next()
            if self._uncompiled:
                # What was written may be known here only after what came of it.
                next_time = min(self._clock() + _LOOK_AGAIN, next_time or math.inf)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if next_time is None else max(0.0, next_time - self._clock())):
                    await self._stirred.wait()
            if not self._leads():
                await asyncio.sleep(self._pace.stand_by)
                continue
            self._stirred.clear()
            await self.turn()
            await asyncio.sleep(self._pace.look)

    async def turn(self) -> None:
        """Write what is due now, and what comes to be due meanwhile."""
        self._tempo.rest()
        self._failure = None
        async with asyncio.TaskGroup() as group:
            next_glance = -math.inf
            while self._goes_on():
                fresh = self._clock() >= next_glance
                if fresh:
                    self._gather()
                    self._tempo.aim(self._due.ripe(self._clock()))
                    next_glance = self._clock() + _GLANCE
                keys = self._due.take(self._clock(), min(_SLICE, 1 + int(self._tempo.rate * _GLANCE)))
                if keys:
                    await self._write_all(keys, group)
                    await asyncio.sleep(0)
                elif not fresh:
                    next_glance = -math.inf
                elif self._writing:
                    # One that the server keeps waiting does not keep the others.
                    await asyncio.wait(self._writing, timeout=_GLANCE, return_when=asyncio.FIRST_COMPLETED)
                else:
                    break
        if self._failure is not None:
            await asyncio.sleep(self._wait_after(self._failure))

    def _goes_on(self) -> bool:
        return self._failure is None and self._leads()

    def _wait_after(self, failure: Later) -> float:
        return min(failure.seconds, self._pace.asked) or self._pace.outage

    def _gather(self) -> None:
        """Put into the queue what something else may be to be said about."""
        now = self._clock()
        keys, everything = self._reach.stirred()
        if everything:
            self._stir_all()
        for key in keys:
            place = (key.kind, ObjectName(namespace=key.namespace, name=key.name))
            if key.cluster == self._cluster and place in self._seen:
                self._due.stir(place, now)
        for place in [place for place in self._uncompiled if self._compiled(place)]:
            self._uncompiled.discard(place)
            self._due.stir(place, now)
        self._mention_others()

    def _compiled(self, key: Key) -> int:
        """Sequence of the event of an object as it was seen, if the compiler has read it; 0: not yet."""
        item, known = self._seen.get(key), self._book.get(*key)
        if item is None or known is None or (known.uid, known.digest) != (item.uid, item.digest):
            return 0
        return known.sequence if known.sequence <= self._reach.compiled else 0

    async def _write_all(self, keys: Sequence[Key], group: asyncio.TaskGroup) -> None:
        """Begin to write these at the pace, each judged when its turn has come; what cannot be written waits again."""
        items = [(key, self._seen.get(key)) for key in keys]
        for key, item in items:
            await self._turn_to_write()
            now = self._clock()
            if not self._goes_on() or self._seen.get(key) is not item:
                self._due.stir(key, now)
                continue
            report = self._judge(key, now)
            if report is None:
                continue
            self._tempo.begin(now)
            # Not judged again before it is known what became of this.
            self._due.hold(key, math.inf)
            task = group.create_task(self._write_one(key, report))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _turn_to_write(self) -> None:
        """Wait until one more request may begin, or none may."""
        while self._goes_on():
            if len(self._writing) >= self._pace.at_once:
                await asyncio.wait(self._writing, return_when=asyncio.FIRST_COMPLETED)
            elif delay := self._tempo.delay(self._clock()):
                await asyncio.sleep(delay)
            else:
                return

    async def _write_one(self, key: Key, report: Report) -> None:
        self._wrote(key, report, await self._write(report))

    def _fail(self, failure: Later) -> None:
        if failure.seconds and self._failure is None:
            self._tempo.ease()
        if self._failure is None or failure.seconds > self._failure.seconds:
            self._failure = failure

    def _wrote(self, key: Key, report: Report, outcome: Outcome | Later) -> None:
        if outcome == "later":
            outcome = Later(0.0)
        self.counts["later" if isinstance(outcome, Later) else outcome] += 1
        if isinstance(outcome, Later):
            self._due.hold(key, self._clock())
            self._due.stir(key, self._clock())
            self._fail(outcome)
            return
        self._tempo.succeeded()
        # What was written is seen by the watch. If it is to be written again all the same, the server takes it
        # and keeps something else (its schema prunes, say).
        told = _told(report.conditions)
        vain = outcome == "refused" or self._told.get(key) == told
        self._told[key] = told
        self._due.hold(key, self._clock() + (self._pace.refused if vain else self._pace.again))
        item = report.object
        for why, message in news(conditions_in(item.status), report.conditions):
            self._announce(News(item.kind, item.name, item.uid, item.resource_version, item.api_version, why, message))

    # What is to be said

    def _judge(self, key: Key, now: float) -> Report | None:
        item = self._seen.get(key)
        if item is None:
            return None
        before = conditions_in(item.status)
        namespace = item.name.namespace
        if namespace != self._mesh_namespace and namespace not in self._reach.namespaces:
            outside = namespace in self._unclaimed and any(each.get("type") in OURS for each in before)
            verdict = Verdict(version=0, outside=True) if outside else None
        else:
            verdict = self._verdict(key, item, now)
        if verdict is None:
            return None
        after = conditions(verdict, generation=item.generation, before=before, now=self._now())
        return None if _told(before) == _told(after) else Report(object=item, conditions=tuple(after))

    def _verdict(self, key: Key, item: Projected, now: float) -> Verdict | None:
        """None: it is not known yet, and looked at again when it is."""
        sequence = self._compiled(key)
        if not sequence:
            self._uncompiled.add(key)
            return None
        if self._pinned is not None and self._pinned.forms.get(key) != (item.uid, item.digest):
            return Verdict(version=sequence, pinned=self._pinned.version)
        of = ObjectKey(cluster=self._cluster, kind=item.kind, namespace=item.name.namespace, name=item.name.name)
        concern = self._reach.concern(of, sequence)
        refused = tuple((_short(one), said) for one in concern.waiting if (said := self._reach.refusal(one)))
        if not concern.waiting:
            self._late.pop(key, None)
        elif not refused and now < (until := self._late.setdefault(key, now) + self._pace.patience):
            self._due.postpone(key, until)
            return None
        whole, missing = _missing(item.kind, item.body)
        reasons = [(one.code, one.sentence) for one in self._reach.left_out(of)]
        return Verdict(
            version=sequence,
            left_out=((NOT_SUPPORTED, missing),) if whole else tuple(reasons),
            unsupported="" if whole else missing,
            concerned=concern.count,
            waiting=tuple(map(_short, concern.waiting)),
            refused=refused,
        )

    # Events

    def _mention_others(self) -> None:
        """What is left out of objects that have no status of ours: Services, slices, Pods, Namespaces, accounts."""
        others = self._reach.left_out_others
        for key in [key for key in self._mentioned if key not in others]:
            del self._mentioned[key]
        for key, found in others.items():
            said = tuple((one.code, one.sentence) for one in found)
            name = ObjectName(namespace=key.namespace, name=key.name)
            known = self._book.get(key.kind, name)
            if self._mentioned.get(key) == said or known is None or not known.lives or not known.uid:
                continue
            self._mentioned[key] = said
            for why, message in news(
                (), conditions(Verdict(version=0, left_out=said), generation=0, before=(), now="")
            ):
                self._announce(News(key.kind, name, known.uid, known.resource_version, "", why, message))

    def _announce(self, one: News) -> None:
        if len(self._news) >= _MOST_NEWS:
            self._news.popleft()
            self.events_dropped += 1
        self._news.append(one)
        self._newsworthy.set()

    async def run_news(self) -> None:
        """Tell events for ever."""
        while True:
            await self._newsworthy.wait()
            self._newsworthy.clear()
            while self._news:
                one = self._news.popleft()
                outcome = await self._tell(one)
                if outcome == "later":
                    outcome = Later(0.0)
                if isinstance(outcome, Later):
                    self._news.appendleft(one)
                    await asyncio.sleep(self._wait_after(outcome))
                    continue
                self.events_told += 1
                await asyncio.sleep(1 / self._pace.news)


@functools.lru_cache(maxsize=4096)
def _missing(kind: str, body: bytes) -> tuple[bool, str]:
    """Whether the kind as a whole is not supported yet, and what to say about it or about the fields that are not."""
    found = support_matrix.findings(kind, msgspec.json.decode(body, type=projected_objects.PolicyObject).spec)
    whole = any(not one.path and one.support.state == "not yet" for one in found)
    return whole, support_matrix.sentence(found)


def _short(proxy: str) -> str:
    return proxy.partition("/")[2]


def _told(held: Sequence[Condition]) -> list[tuple[str, ...]]:
    parts = ("type", "status", "reason", "message", "observedGeneration")
    return sorted(tuple(str(each.get(part, "")) for part in parts) for each in held)


class _Status(msgspec.Struct):
    conditions: list[Condition] = []


def conditions_in(status: bytes) -> list[Condition]:
    """The conditions in a status; whatever else somebody wrote there counts as none."""
    try:
        return decode(_Status, status).conditions if status else []
    except UndecodableError:
        return []
