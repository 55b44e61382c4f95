"""From the log of events to the log of snapshots: the compiler's imperative shell.

It reads every event there is, and publishes nothing before that. Then it follows: while one compile is being
published, events queue, and the next compile takes all whole batches that wait. No timer: an idle mesh pays no wait,
a busy mesh batches by itself.

A restart refolds the events and compares the result with what is published: if nothing changed, nothing is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncGenerator, Callable

import msgspec

from services.compiler.core.compiler import Compiler
from services.compiler.core.pin_filter import refuse_future
from services.compiler.log.loop_turns import LoopTurns
from services.compiler.log.snapshot_store import Retention, SnapshotStore
from shared.eventlog.chain import ChainVerifier
from shared.eventlog.protocol import (
    ChainBrokenError,
    EventLog,
    LogFullError,
    LogUnavailableError,
    Record,
    StaleWriterError,
    epoch_records,
)
from shared.records import events
from shared.records.events import Event
from shared.records.snapshot import Commit
from shared.telemetry import traces
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)

_BACKOFF = Backoff(first=0.1, longest=0.4)
GLANCE = 15.0
"""Seconds of silence after which a leader looks whether the log still has what it published."""
_QUEUE = 20_000


class RefoldError(Exception):
    """What was folded is void: a new epoch begins, or the log went back. Read all events again."""


class KeyframePolicy(msgspec.Struct, frozen=True):
    """When a keyframe is due."""

    commits: int = 200
    """After so many commits."""
    bytes: int = 8 << 20
    """After commits of so many bytes."""
    kept: Retention = Retention()
    """What is forgotten after a keyframe was written."""
    scrub: float = 600.0
    """Seconds between readings of all that is published: damage would show only to who starts anew, when it is late."""


class PublisherCounts(msgspec.Struct):
    """What this process did so far, for its metrics."""

    events: int = 0
    skipped: int = 0
    commits: int = 0
    bytes: int = 0
    resources: int = 0
    quarantined: int = 0
    failures: int = 0
    keyframes: int = 0
    refused: int = 0
    """Commits that the log refused because another compiler had published."""
    history_from: int = 0
    """Version from which on the past is kept; 0: nothing was forgotten yet."""


Ready = Callable[[str, bool, str], None]


class Publisher:
    """Compiles what the event log says and publishes it."""

    def __init__(
        self,
        log: EventLog,
        snapshots: SnapshotStore,
        *,
        scope: str,
        compiler: Callable[[], Compiler],
        ready: Ready,
        limits: KeyframePolicy | None = None,
        compiled: Callable[[float], None] | None = None,
        leads: Callable[[], bool] = lambda: True,
        wants: Callable[[bool], None] = lambda _wants: None,
    ) -> None:
        """`leads`: whether to publish. A standby folds and compiles all the same; call `wake` when that changes.

        `wants` is told whether to lead is wanted: not before the events are read, nor after all was said that this
        build understands.
        """
        self.tally = PublisherCounts()
        self.snapshots = snapshots
        self.compiler = compiler()
        self._new_compiler = compiler
        self._log = log
        self._scope = scope
        self._ready = ready
        self._limits = limits or KeyframePolicy()
        self._compiled = compiled or _ignore
        self.reached = 0
        """Up to this event all is published that is to be: those after the published version change nothing."""
        self.newer = ""
        """What a newer build is needed for; empty: nothing. Nothing is folded from that event on."""
        self._halved = False
        """Whether that event is of those with which the epoch began."""
        self._aside = False
        self._verifier = ChainVerifier()
        self._broken = ""
        self._open: list[Record] = []
        self._missing = 0
        self._commits_since_keyframe = 0
        self._held_back = 0
        self._leads = leads
        self._wants = wants
        self._behind = False
        self._full = ""
        self._keyframe_wanted = False
        self._next_glance = 0.0
        self._next_scrub = 0.0
        self._queue: asyncio.Queue[Record | Exception | None] = asyncio.Queue(maxsize=_QUEUE)

    def wake(self) -> None:
        """Look again whether to lead."""
        if not self._queue.full():
            self._queue.put_nowait(None)

    async def run(self) -> None:
        """Compile and publish for ever. Outages of the log are waited out."""
        delays = _BACKOFF.delays()
        while True:
            try:
                await self._refold()
                delays.reset()
                await self._follow()
            except (RefoldError, ChainBrokenError) as error:
                _log.warning("reading all events again: %s", error)
            except LogUnavailableError as error:
                _log.info("the log cannot be reached, trying again: %s", error)
            await asyncio.sleep(delays.next())

    async def _refold(self) -> None:
        """Fold every event there is, and publish what differs from the published snapshot."""
        self._ready("events", False, "reading the events")
        await self.snapshots.load()
        await self._fold_all()
        if self._broken:
            # A trim under a reader looks like a hole. It is one if it is still there.
            await self._fold_all()
        await self._publish()
        # What is there now stays for long: without this, each collection would visit it again.
        gc.collect()
        gc.freeze()
        if not self._broken and not self._aside:
            self._wants(True)
        why = self._broken or self.newer
        self._ready("events", not why, why)

    async def _fold_all(self) -> None:
        self.compiler = self._new_compiler()
        self._verifier, self._broken, self._open, self._missing = ChainVerifier(), "", [], 0
        self.newer, self._halved, self._aside, self.reached = "", False, False, 0
        folded, turns = 0, LoopTurns()
        async for record in self._log.read(subjects=self._scope):
            await self._fold(record, turns, refolding=True)
            folded += 1
        if not self._broken and self._verifier.headless:
            self._broken = f"the event log lost its beginning: {self._verifier.headless}"
            _log.warning(self._broken)
            self._ready("events", False, self._broken)
        _log.info("read %d events up to %d", folded, self.compiler.version)

    async def _follow(self) -> None:
        start = self._verifier.checkpoint.sequence + 1
        queue = self._queue = asyncio.Queue[Record | Exception | None](maxsize=_QUEUE)
        if self._behind and self._leads():
            self.wake()
        self._next_glance = asyncio.get_running_loop().time() + GLANCE
        async with _reading(self._log, queue, start=start, scope=self._scope):
            while True:
                item = await self._next(queue)
                turns = LoopTurns()
                # What waits now, and nothing that comes meanwhile: a flood of events must not put off the compile.
                for taken in (item, *[queue.get_nowait() for _ in range(queue.qsize())]):
                    if isinstance(taken, Exception):
                        raise taken
                    if taken is not None:
                        await self._fold(taken, turns, refolding=False)
                await self._publish()
                if queue.empty() and not self._behind:
                    await self._keyframe_if_due()

    async def _next(self, queue: asyncio.Queue[Record | Exception | None]) -> Record | Exception | None:
        """The next that comes. A leader looks now and then whether what it published is there."""
        clock = asyncio.get_running_loop().time
        while True:
            if clock() < self._next_glance:
                try:
                    async with asyncio.timeout_at(self._next_glance):
                        return await queue.get()
                except TimeoutError:
                    pass
            self._next_glance = clock() + GLANCE
            if not self._leads() or self._behind or self._broken or self._missing:
                continue
            try:
                if not await self.snapshots.intact():
                    _log.error("what was published is not in the log any more, or not all: it is said again")
                    self._behind = True
                    return None
                whole = clock() >= self._next_scrub
                if self.snapshots.published.version and not await self.snapshots.leads_here(whole=whole):
                    _log.error("what was published cannot be read from its newest keyframe on: another is written")
                    await self._keyframe()
                if whole:
                    self._next_scrub = clock() + self._limits.scrub
            except LogUnavailableError:
                continue

    async def _fold(self, record: Record, turns: LoopTurns, *, refolding: bool) -> None:
        """Take a record; the events of an atomic batch are folded when it is complete."""
        try:
            starts = self._verifier.fold(record)
        except ChainBrokenError as error:
            # Nothing is published on top of a hole: a record that is missing may have taken a right away. Proxies
            # keep what they have until the ingestor has derived a new epoch from Kubernetes. But first everything is
            # read again: who slept while the log was trimmed sees a hole where there is none.
            if not refolding:
                raise
            _log.warning("the event log is broken: %s", error)
            self._broken = str(error)
            self._ready("events", False, self._broken)
            self._verifier = ChainVerifier()
            try:
                starts = self._verifier.fold(record)
            except ChainBrokenError:
                # Not even by itself: the next one is where to go on.
                self._open = []
                return
        if starts:
            if not refolding:
                raise RefoldError(f"epoch {record.epoch} begins at {record.sequence}")
            # What was folded before is void: what vanished while the log was broken must not live on in us.
            if self.compiler.version:
                self.compiler = self._new_compiler()
            self._broken, self._open, self.newer, self._halved = "", [], "", False
            self._missing = epoch_records(record)
        within_beginning = self._missing > 0
        self._missing = max(0, self._missing - 1)
        self._open.append(record)
        if record.ends_batch:
            batch, self._open = self._open, []
            await self._fold_batch(batch, turns, within_beginning=within_beginning)

    async def _fold_batch(self, batch: list[Record], turns: LoopTurns, *, within_beginning: bool) -> None:
        """Fold what was written together; nothing of it, nor of what follows, if this build cannot read it all."""
        if self.newer:
            return
        readable: list[tuple[Event, Record]] = []
        for record in batch:
            try:
                event = events.read(record)
                refuse_future(event)
            except events.FutureEventError as error:
                self.newer, self._halved = error.state(record.sequence), within_beginning
                told = {"code": error.code}
                _log.error("%s; nothing after event %d is in force", self.newer, self.compiler.version, extra=told)
                self._ready("events", False, self.newer)
                return
            except events.CorruptEventError as error:
                self.tally.skipped += 1
                _log.error("event %d is skipped: %s", record.sequence, error)
                continue
            readable.append((event, record))
            await turns.pause()
        self.tally.events += len(batch)
        for event, record in readable:
            traceparent = traces.extract(record.headers)
            self.compiler.fold(event, record.sequence, epoch=record.epoch, traceparent=traceparent)
            await turns.pause()

    async def _publish(self) -> None:
        """Publish what the events folded so far change, if anything; who can understand no more lets others lead."""
        await self._say()
        if self.newer and not self._aside and (self._leads() or self._halved):
            self._aside = True
            self._wants(False)

    async def _say(self) -> None:
        delays = _BACKOFF.delays()
        # An epoch that is not complete yet would take from proxies what nobody took away.
        while not self._broken and not self._missing and not self._halved and self.compiler.version:
            if not self._leads():
                # Warm: what the events mean is known, only not said.
                await LoopTurns().finish(self.compiler.warming())
                self._waits_for_room("")
                self._behind = True
                return
            if self._behind:
                await self._reload()
                self._behind = False
                # An edge that holds what the log has lost needs a whole snapshot to go on from.
                self._keyframe_wanted = True
            try:
                with traces.span("compile", parent=self.compiler.oldest_traceparent) as span:
                    commit = await self._compile(span)
                    if commit is not None:
                        span.links, before = tuple(commit.traceparents), self.snapshots.published.version
                        self._account(commit, await self.snapshots.append(commit, traceparent=span.traceparent))
                        if commit.version == before:
                            # What was said once more is not what is compiled here, which may be behind it.
                            self.compiler.doubt()
                        else:
                            self.compiler.accept()
                self._waits_for_room("")
                self._reach()
                break
            except StaleWriterError:
                self.tally.refused += 1
                _log.warning("another compiler has published; reading on")
            except LogFullError as error:
                self._waits_for_room(str(error))
            except LogUnavailableError as error:
                _log.info("the commit may not be written, trying again: %s", error)
            await asyncio.sleep(delays.next())
            await self._reload()
        lacks = self.snapshots.published.version > self.snapshots.keyframe_version
        if lacks and (self._keyframe_wanted or not self.snapshots.keyframe_version) and self._leads():
            await self._keyframe()

    def _reach(self) -> None:
        if self._held_back != self.compiler.version:
            self.reached = self.compiler.version

    def _waits_for_room(self, why: str) -> None:
        """Say that the stream of commits takes no more, as long as that lasts."""
        if why == self._full:
            return
        self._full = why
        if why:
            _log.error("%s; the commit waits", why, extra={"code": "log/full"})
        self._ready("commits", not why, why)

    async def _reload(self) -> None:
        delays = _BACKOFF.delays()
        while True:
            try:
                await self.snapshots.refresh()
                self.compiler.doubt()
                self._keyframe_wanted |= self.snapshots.published.version < self.snapshots.highest
            except LogUnavailableError:
                await asyncio.sleep(delays.next())
            else:
                return

    async def _difference(self) -> Commit | None:
        """What leads from the published version to the events folded; nothing, if nothing differs and nobody doubts it.

        Where a commit was lost an edge may hold what nobody publishes any more, and a new epoch began because the log
        was damaged: then what did not change is said too, so that whoever missed something has a version to come to.
        """
        published = self.snapshots.published
        commit = await LoopTurns().finish(self.compiler.committing(published))
        epoch_is_new = published.version > 0 and published.epoch != self.compiler.epoch
        if (commit is not None and commit.version > published.version) or not (self.snapshots.doubtful or epoch_is_new):
            return commit
        if self.compiler.version > published.version:
            return await LoopTurns().finish(self.compiler.committing(published, always=True))
        return published.keyframe() if self.snapshots.hidden else commit

    async def _compile(self, span: traces.Span) -> Commit | None:
        started = asyncio.get_running_loop().time()
        failures_before = len(self.compiler.failures)
        commit = await self._difference()
        self._compiled(asyncio.get_running_loop().time() - started)
        if len(self.compiler.failures) > failures_before:
            for (query, arguments), error in sorted(self.compiler.failures.items()):
                _log.error("%s%s cannot be compiled, its former result stays: %s", query, arguments, error)
        self.tally.failures = len(self.compiler.failures)
        if commit is None:
            self.compiler.accept()
            return None
        # A version that is lost in the log may be said again: by the same build it is the same, byte for byte.
        highest = self.snapshots.highest, self.snapshots.highest_build
        repeats = commit.parent < commit.version and (commit.version, commit.build) == highest
        if not self.snapshots.outdoes(commit) and not repeats:
            # The same events, compiled differently (another build), or a log that went back. Versions only grow, so
            # it waits for the next event.
            if self._held_back != commit.version:
                _log.warning("version %d stands already; what differs waits for the next event", commit.version)
            self._held_back = commit.version
            return None
        span.set(version=commit.version, resources=len(commit.resources), views=len(commit.views))
        return commit

    def _account(self, commit: Commit, size: int) -> None:
        self.tally.commits += 1
        self.tally.bytes += size
        self.tally.resources += len(commit.resources)
        self.tally.quarantined = len(self.snapshots.published.quarantine)
        self._commits_since_keyframe += 1
        _log.info(
            "published",
            extra={
                "version": commit.version,
                "parent": commit.parent,
                "resources": len(commit.resources),
                "views": len(commit.views),
                "proxies": len(commit.proxies),
                "quarantined": self.tally.quarantined,
                "bytes": size,
            },
        )

    async def _keyframe_if_due(self) -> None:
        due = (
            self._commits_since_keyframe >= self._limits.commits or self.snapshots.since_keyframe >= self._limits.bytes
        )
        if due:
            await self._keyframe()

    async def _keyframe(self) -> None:
        try:
            if await self.snapshots.append_keyframe():
                self.tally.keyframes += 1
                self._keyframe_wanted = False
                self.tally.history_from = await self.snapshots.trim(self._limits.kept)
            self._commits_since_keyframe = 0
        except LogUnavailableError as error:
            _log.info("no keyframe is written now: %s", error)


def _ignore(_seconds: float) -> None:
    return


@contextlib.asynccontextmanager
async def _reading(
    log: EventLog, queue: asyncio.Queue[Record | Exception | None], *, start: int, scope: str
) -> AsyncGenerator[None]:
    """Put what the log yields into the queue, and the error that ended it, for as long as this lasts."""

    async def read() -> None:
        try:
            async for record in log.follow(start=start, subjects=scope):
                await queue.put(record)
        except Exception as error:  # noqa: BLE001 (handed to the one who waits, who raises it)
            await queue.put(error)

    task = asyncio.get_running_loop().create_task(read(), name="events")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
