"""Runs one reflector over one source: performs its actions and reports their outcomes, for ever.

The kernel ends a watch whose peer is gone within seconds (`shared.kubernetes.transport`); it is then resumed. A watch
that is silent for longer than the server's interval of bookmarks is taken for dead too: the host answers, but the API
server does not. Time spent waiting for the writer does not count as silence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

from services.ingestor.core.kinds import WatchedKind
from services.ingestor.core.list_decode import read_line, read_page
from services.ingestor.core.observations import Observation
from services.ingestor.core.projection import UnreadableObjectError
from services.ingestor.core.reflector import SILENCE, Failure, FetchPage, OpenWatch, Reflector, Step, StreamList, Wait
from services.ingestor.kubernetes.object_source import KindAbsentError, ObjectSource, SourceError
from services.ingestor.settings import SILENCE as SILENCE_SECONDS

_log = logging.getLogger(__name__)


class ReflectorRunner:
    """Follows one kind."""

    def __init__(
        self,
        kind: WatchedKind,
        reflector: Reflector,
        source: ObjectSource,
        sink: Callable[[Observation], Awaitable[None]],
        *,
        clock: Callable[[], float],
        silence: float = SILENCE_SECONDS,
        listed: Callable[[], None] = lambda: None,
    ) -> None:
        """`clock` is the event loop's. `listed` is called after each list: the server is available then."""
        self.kind = kind
        self.reflector = reflector
        self.unreadable = 0
        """Objects that could not be decoded, since the start."""
        self._source = source
        self._sink = sink
        self._clock = clock
        self._silence = silence
        self._listed = listed
        self._api_version = kind.version
        self._relist: bool | None = None
        """Whether the requested list confirms another; None: no list is requested."""
        self._interruptible: asyncio.Timeout | None = None

    def relist(self, *, confirming: bool) -> None:
        """List again soon. `confirming`: because the newest list looked older than the log."""
        self._relist = confirming
        # A timeout that has just expired cannot be rescheduled, and need not be.
        if self._interruptible is not None and not self._interruptible.expired():
            self._interruptible.reschedule(self._clock())

    async def run(self) -> None:
        """Follow the kind for ever."""
        step = self.reflector.begin()
        while True:
            for observation in step.observations:
                await self._sink(observation)
            step = await self.turn(step)

    async def turn(self, step: Step) -> Step:
        """Perform one action; returns the next step."""
        if self._relist is not None:
            confirming, self._relist = self._relist, None
            step = self.reflector.relist(confirming=confirming)
        match step.action:
            case FetchPage(token):
                return await self._fetch(token)
            case StreamList():
                return await self._stream()
            case OpenWatch(version):
                return await self._watch(version)
            case Wait(seconds, then, why):
                _log.debug("waiting", extra={"kind": self.kind.name, "seconds": round(seconds, 3), "why": why})
                try:
                    async with asyncio.timeout(seconds) as self._interruptible:
                        await asyncio.get_running_loop().create_future()
                except TimeoutError:
                    pass
                finally:
                    self._interruptible = None
                return Step(action=then)

    async def _fetch(self, token: str) -> Step:
        try:
            answer = await self._source.page(self.kind, token)
        except KindAbsentError:
            return self.reflector.absent(self._clock())
        except SourceError as error:
            return self._failed(error.failure, "list")
        read = read_page(self.kind.name, answer.body, api_version=answer.api_version, only=self.kind.object_name)
        if isinstance(read, Failure):
            return self._failed(read, "list")
        page, errors = read
        for error in errors:
            self._quarantine(error)
        self._api_version = answer.api_version
        step = self.reflector.page(page)
        if isinstance(step.action, OpenWatch):
            self._listed()
        return step

    async def _stream(self) -> Step:
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._silence):
                    self._api_version, lines = await stack.enter_async_context(self._source.stream(self.kind))
            except KindAbsentError:
                return self.reflector.absent(self._clock())
            except SourceError as error:
                return self._after(error.failure, self.reflector.stream_refused(error.failure, self._clock()), "list")
            except TimeoutError:
                return self._failed(Failure(SILENCE), "list")
            self.reflector.streamed(self._clock())
            return await self._follow(lines)

    async def _watch(self, version: str) -> Step:
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._silence):
                    lines = await stack.enter_async_context(self._source.watch(self.kind, version))
            except SourceError as error:
                return self._failed(error.failure, "watch")
            except TimeoutError:
                return self._failed(Failure(SILENCE), "watch")
            self.reflector.opened(self._clock())
            return await self._follow(lines)

    async def _follow(self, lines: AsyncIterator[bytes]) -> Step:
        reflector = self.reflector
        try:
            async with asyncio.timeout(self._silence) as silence:
                self._interruptible = silence
                if self._relist is not None:
                    silence.reschedule(self._clock())
                async for raw in lines:
                    read = read_line(self.kind.name, raw, api_version=self._api_version, only=self.kind.object_name)
                    if isinstance(read, Failure):
                        return self._failed(read, "watch")
                    line, error = read
                    if error is not None:
                        self._quarantine(error)
                    before = silence.when()
                    silence.reschedule(None)
                    was_streaming = reflector.streaming
                    for observation in reflector.line(line):
                        await self._sink(observation)
                    if was_streaming and not reflector.streaming:
                        self._listed()
                    # A list must end in time, however many objects it has.
                    until = before if reflector.streaming else self._clock() + self._silence
                    silence.reschedule(self._clock() if self._relist is not None else until)
            return reflector.closed(self._clock())
        except SourceError as error:
            return self._failed(error.failure, "watch")
        except TimeoutError:
            if self._relist is not None:
                return Step(action=FetchPage())  # `turn` lists again instead
            return self._failed(Failure(SILENCE), "watch")
        finally:
            self._interruptible = None

    def _failed(self, failure: Failure, what: str) -> Step:
        return self._after(failure, self.reflector.failed(failure, self._clock()), what)

    def _after(self, failure: Failure, step: Step, what: str) -> Step:
        if isinstance(step.action, FetchPage):
            return step  # no failure: the list is requested in pages instead
        wait = step.action.seconds if isinstance(step.action, Wait) else 0.0
        level = logging.DEBUG if failure.why == SILENCE else logging.WARNING
        _log.log(
            level,
            "a %s failed",
            what,
            extra={"kind": self.kind.name, "why": failure.why, "again_in": round(wait, 3)},
        )
        return step

    def _quarantine(self, error: UnreadableObjectError) -> None:
        self.unreadable += 1
        _log.error("an object is left out, its last good form stays: %s", error, extra={"code": error.code})
