"""Publishes versions: follows the event log, and appends a commit whenever the compiled configuration changes.

It reads every event of the log, and publishes nothing before that. Then it follows: while one commit is appended,
events queue, and the next compile takes all complete batches that wait. There is no timer: an idle mesh publishes at
once, a busy mesh batches.

After a restart it folds all events again and compares the result with the published version: if they are equal, it
appends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncGenerator, Callable

from services.compiler.core.compiler import Compiler
from services.compiler.log.commit_builder import CommitBuilder
from services.compiler.log.counts import PublisherCounts
from services.compiler.log.event_fold import EventFold, Ready, RefoldError
from services.compiler.log.keyframe_writer import KeyframePolicy, KeyframeWriter
from services.compiler.log.loop_turns import LoopTurns
from services.compiler.log.snapshot_store import SnapshotStore
from shared.eventlog.protocol import (
    ChainBrokenError,
    EventLog,
    LogFullError,
    LogUnavailableError,
    Record,
    StaleWriterError,
)
from shared.telemetry import traces
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)

_BACKOFF = Backoff(first=0.1, longest=0.4)
GLANCE = 15.0
"""Seconds without events after which a leader checks that the log still has what it published."""
_QUEUE = 20_000
"""Events that wait for the next compile at most."""

_Queue = asyncio.Queue[Record | Exception | None]
"""Events; the error that ended the following; None: check the lease again."""


class Publisher:
    """Compiles the event log and publishes the result."""

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
        """`leads` returns whether to publish. A standby folds and compiles; call `wake` when the answer changes.

        `wants` is called with whether this process should hold the lease: false before the events are read, and once
        everything that this build can decode is published.
        """
        self.tally = PublisherCounts()
        self.snapshots = snapshots
        self.reached = 0
        """The newest event of which everything is published; events after the published version change nothing."""
        self._log = log
        self._scope = scope
        self._ready = ready
        self._leads = leads
        self._wants = wants
        self._fold = EventFold(log, scope=scope, compiler=compiler, ready=ready, counts=self.tally)
        self._keyframes = KeyframeWriter(snapshots, limits or KeyframePolicy(), self.tally)
        self._commits = CommitBuilder(snapshots, self.tally, compiled or _ignore)
        self._stepped_down = False
        """Whether the lease was given up because a newer build is needed."""
        self._behind = False
        """Whether the published version must be read again before the next commit."""
        self._full = ""
        self._next_glance = 0.0
        self._queue: _Queue = asyncio.Queue(maxsize=_QUEUE)

    @property
    def compiler(self) -> Compiler:
        """The compiler with the events folded so far."""
        return self._fold.compiler

    @property
    def newer(self) -> str:
        """Why a newer build is needed; empty if none is. No event is folded from that one on."""
        return self._fold.newer

    def wake(self) -> None:
        """Check again whether this process leads."""
        if not self._queue.full():
            self._queue.put_nowait(None)

    async def run(self) -> None:
        """Compile and publish until cancelled. Waits while the log is unavailable."""
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
        """Fold all events of the log, and publish the difference from the published version."""
        self._ready("events", False, "reading the events")
        await self.snapshots.load()
        self._stepped_down, self.reached = False, 0
        await self._fold.read_all()
        if self._fold.broken:
            # A trim during the reading looks like a gap. If the gap is still there, it is one.
            self._stepped_down, self.reached = False, 0
            await self._fold.read_all()
        await self._publish()
        # The state lives long: without this, each garbage collection would visit it again.
        gc.collect()
        gc.freeze()
        if not self._fold.broken and not self._stepped_down:
            self._wants(True)
        why = self._fold.broken or self.newer
        self._ready("events", not why, why)

    async def _follow(self) -> None:
        queue = self._queue = _Queue(maxsize=_QUEUE)
        if self._behind and self._leads():
            self.wake()
        self._next_glance = asyncio.get_running_loop().time() + GLANCE
        async with _reading(self._log, queue, start=self._fold.next_sequence, scope=self._scope):
            while True:
                item = await self._next(queue)
                turns = LoopTurns()
                # Only what waits now: a flood of events must not delay the compile.
                for taken in (item, *[queue.get_nowait() for _ in range(queue.qsize())]):
                    if isinstance(taken, Exception):
                        raise taken
                    if taken is not None:
                        await self._fold.fold(taken, turns, refolding=False)
                await self._publish()
                if queue.empty() and not self._behind:
                    await self._keyframes.write_if_due()

    async def _next(self, queue: _Queue) -> Record | Exception | None:
        """The next item. A leader without events checks from time to time that its commits are in the log."""
        clock = asyncio.get_running_loop().time
        while True:
            if clock() < self._next_glance:
                try:
                    async with asyncio.timeout_at(self._next_glance):
                        return await queue.get()
                except TimeoutError:
                    pass
            self._next_glance = clock() + GLANCE
            if not self._leads() or self._behind or not self._fold.whole:
                continue
            try:
                if not await self._keyframes.check(clock()):
                    self._behind = True
                    return None
            except LogUnavailableError:
                continue

    async def _publish(self) -> None:
        """Publish the folded events; release the lease if this build cannot decode the next event."""
        await self._commit()
        if self.newer and not self._stepped_down and (self._leads() or self._fold.newer_in_beginning):
            self._stepped_down = True
            self._wants(False)

    async def _commit(self) -> None:
        delays = _BACKOFF.delays()
        while self._fold.publishable:
            if not self._leads():
                # Standby: keep the result compiled, do not publish.
                await LoopTurns().finish(self.compiler.warming())
                self._wait_for_space("")
                self._behind = True
                return
            if self._behind:
                await self._reload()
                self._behind = False
                # An edge that holds a version which the log lost needs a keyframe to continue from.
                self._keyframes.wanted = True
            try:
                await self._compile_and_append()
                self._wait_for_space("")
                self._reach()
                break
            except StaleWriterError:
                self.tally.refused += 1
                _log.warning("another compiler has published; reading on")
            except LogFullError as error:
                self._wait_for_space(str(error))
            except LogUnavailableError as error:
                _log.info("the commit may not be written, trying again: %s", error)
            await asyncio.sleep(delays.next())
            await self._reload()
        if self._leads():
            await self._keyframes.write_if_wanted()

    async def _compile_and_append(self) -> None:
        with traces.span("compile", parent=self.compiler.oldest_traceparent) as span:
            commit = await self._commits.build(self.compiler, span)
            if commit is None:
                return
            span.links, before = tuple(commit.traceparents), self.snapshots.published.version
            size = await self.snapshots.append(commit, traceparent=span.traceparent)
            self._commits.count(commit, size)
            self._keyframes.note_commit()
            if commit.version == before:
                # The published version was appended again: it may be older than the compiled result.
                self.compiler.doubt()
            else:
                self.compiler.accept()

    def _reach(self) -> None:
        if self._commits.held_back != self.compiler.version:
            self.reached = self.compiler.version

    def _wait_for_space(self, why: str) -> None:
        """Report that the stream of commits is full, or (empty) that it is not."""
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
                self._keyframes.wanted |= self.snapshots.published.version < self.snapshots.highest
            except LogUnavailableError:
                await asyncio.sleep(delays.next())
            else:
                return


def _ignore(_seconds: float) -> None:
    return


@contextlib.asynccontextmanager
async def _reading(log: EventLog, queue: _Queue, *, start: int, scope: str) -> AsyncGenerator[None]:
    """Follow the log into the queue while this context lasts; the error that ends the following is queued, too."""

    async def read() -> None:
        try:
            async for record in log.follow(start=start, subjects=scope):
                await queue.put(record)
        except Exception as error:  # noqa: BLE001 (passed to the reader of the queue, which raises it)
            await queue.put(error)

    task = asyncio.get_running_loop().create_task(read(), name="events")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
