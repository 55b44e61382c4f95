"""One stream on NATS JetStream, as an `EventLog`.

The server checks what correctness needs (expected sequences, message ids, atomic batches); nothing depends on the
memory of this client, which may be killed at any instruction. The server does not check whether the stream is still the
one that was read. Sequences show some of that here (`follower`), and `shared.eventlog.chain` shows the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeVar

import msgspec

from shared.eventlog.chain import ChainedBatch, chain_batch, check_size, checkpoint_at
from shared.eventlog.foreign import ForeignFilter, ForeignRecords
from shared.eventlog.jetstream.append import append_batch, publish
from shared.eventlog.jetstream.follower import Follower, from_sequence
from shared.eventlog.jetstream.nats_connection import NatsConnection, NatsSession
from shared.eventlog.jetstream.ordered_consumer import deliver
from shared.eventlog.jetstream.stream_api import (
    MESSAGE_ID,
    NO_STREAM,
    WITHIN,
    JetStreamApiError,
    StreamInfo,
    call,
    ensure_stream,
    last_record,
    record_at,
    stream_info,
)
from shared.eventlog.jetstream.work_queue import take_jobs
from shared.eventlog.own_records import OwnRecords
from shared.eventlog.protocol import (
    EMPTY,
    Checkpoint,
    Draft,
    EventLogError,
    Extent,
    Job,
    LogFullError,
    LogUnavailableError,
    Record,
    StaleWriterError,
)
from shared.eventlog.stream_spec import StreamSpec
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)

_PUBLISH_WITHIN = 15.0
"""Seconds for which `publish` is retried; the election of a stream's leader takes 5 to 6."""
_BACKOFF = Backoff(first=0.1, longest=0.4)
_RECREATE_WITHIN = 0.1
"""Seconds to wait for a connection before the next attempt has to create a missing stream."""
_CHECK_WITHIN = 0.3
"""Seconds that a writer spends on checking whether its stream exists, after a request without an answer. A stream that
exists and has no leader does not answer this check either."""
_STALE_RETRIES = 16
"""Retries of an append because a foreign record was stored before it."""

T = TypeVar("T")


class JetStreamLog:
    """One stream on JetStream; an `EventLog`. Opened by `shared.streams.jetstream.JetStreamLogs`."""

    def __init__(
        self, spec: StreamSpec, connection: NatsConnection, foreign: ForeignRecords | None = None, *, user: str = ""
    ) -> None:
        """`foreign` counts skipped records. `user` is the NATS user of the connection."""
        self.spec = spec
        self._user = user
        self.foreign = foreign or ForeignRecords()
        self._connection = connection
        self._filter = ForeignFilter(spec, self.foreign)
        self._own = OwnRecords(self._filter, self._span, self._first)

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.spec.name

    # Writing

    async def append(self, drafts: Sequence[Draft], *, scope: str, after: Checkpoint, epoch: str = "") -> Checkpoint:
        """Append one atomic batch to a chained scope; see `EventLog.append`."""
        batch = chain_batch(drafts, scope=scope, after=after, epoch=epoch)
        session = await self._connection.session(within=WITHIN)
        end = after.sequence
        for tried in range(_STALE_RETRIES + 1):
            try:
                return batch.checkpoint(await self._append_at(session, drafts, batch, scope=scope, end=end))
            except StaleWriterError:
                found = await self._end_behind(session, scope, after)
                if found in {None, end} or tried == _STALE_RETRIES:
                    raise
                # Only foreign records were stored since.
                end = found or 0
        raise AssertionError("the last attempt raises")

    async def _append_at(
        self, session: NatsSession, drafts: Sequence[Draft], batch: ChainedBatch, *, scope: str, end: int
    ) -> int:
        """Write if the scope ends at `end`; return the sequence of the last record."""
        try:
            return await append_batch(session, self.name, drafts, batch.headers, scope=scope, end=end)
        except LogFullError:
            raise
        except LogUnavailableError:
            await self._recreate_if_missing()
            raise

    async def _end_behind(self, session: NatsSession, scope: str, after: Checkpoint) -> int | None:
        """Return where the scope ends if only foreign records follow `after`; None if others do, or `after` is lost."""
        async with self._recreating():
            return await self._own.end_of(scope, after, await last_record(session, self.name, scope))

    async def publish(self, draft: Draft) -> int:
        """Append one unchained record; see `EventLog.publish`.

        Retried under one message id while the log is unavailable, so the record is stored once. `LogFullError` is
        raised at once, because a full log is rarely freed within `_PUBLISH_WITHIN`.
        """
        check_size([draft])
        headers = {**draft.headers, MESSAGE_ID: draft.message_id or secrets.token_hex(12)}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PUBLISH_WITHIN
        delays = _BACKOFF.delays()
        while True:
            try:
                session = await self._connection.session(within=max(deadline - loop.time(), 0.001))
                return await publish(session, self.name, draft, headers)
            except LogFullError:
                raise
            except LogUnavailableError:
                pause = delays.next()
                if self._connection.closed or loop.time() + pause >= deadline:
                    raise
            await self._recreate_if_missing()
            await asyncio.sleep(pause)

    # Reading

    async def read(self, *, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        """Yield the records that are there from `start` on; see `EventLog.read`."""
        session = await self._connection.session(within=WITHIN)
        async with self._recreating():
            end = (await stream_info(session, self.name)).last
        reading = self._own.read_filter(subjects)
        async with contextlib.aclosing(self._between(session, start, end, subjects)) as records:
            async for record in records:
                if await reading.is_own(record):
                    yield record

    def follow(self, *, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        """Yield records from `start` on without end; see `EventLog.follow`.

        Raises `ChainBrokenError` if the stream was rolled back behind a record that was yielded. A stream that was
        deleted and created again is followed from its beginning.
        """
        follower = Follower(self.name, self._own, start=start, subjects=subjects)
        return self._reconnecting(follower.read, doing="following")

    async def at(self, sequence: int) -> Record | None:
        """Return the first record at or after a sequence, from the stream's leader; None beyond the end."""
        async with self._recreating():
            found = await record_at(await self._connection.session(within=WITHIN), self.name, sequence)
        if found is None or await self._own.is_own(found, content=False):
            return found
        async with contextlib.aclosing(self.read(start=found.sequence + 1)) as records:
            async for record in records:
                return record
        return None

    async def last(self, subject: str) -> Record | None:
        """Return the newest record of a subject or wildcard, from the stream's leader."""
        return await self._own.newest(await self._last(subject), subject, content=True)

    async def last_per_subject(self, subjects: str = ">") -> list[Record]:
        """Return the newest record of each subject that matches, by sequence."""
        session = await self._connection.session(within=WITHIN)
        async with self._recreating():
            end = (await stream_info(session, self.name)).last
        newest: dict[str, Record] = {}
        policy: dict[str, object] = {"deliver_policy": "last_per_subject", "filter_subject": subjects}
        async with contextlib.aclosing(deliver(session, self.name, subjects=subjects, policy=policy)) as records:
            async for record in records:
                if record is None:
                    break
                newest[record.subject] = record
                if record.sequence >= end:
                    break
        own = await self._own.newest_of_each(newest, subjects)
        ordered = sorted(own.values(), key=lambda record: record.sequence)
        return [msgspec.structs.replace(r, pending=len(ordered) - 1 - i) for i, r in enumerate(ordered)]

    async def tip(self, scope: str) -> Checkpoint:
        """Return the checkpoint after the newest record of a chained scope."""
        last = await self._own.newest(await self._last(scope), scope, content=False)
        return checkpoint_at(last) if last else EMPTY

    async def bounds(self) -> tuple[int, int]:
        """Return the first and last sequence; the first is last + 1 if the stream is empty."""
        info = await self._info()
        return info.first, info.last

    async def extent(self) -> Extent:
        """Return how much the stream holds, as its leader counts it."""
        info = await self._info()
        return Extent(first=info.first, last=info.last, count=info.count)

    async def lacks_after(self, sequence: int) -> bool:
        """Whether a sequence above this one was given to a record that is not there."""
        end = (await self._info()).last
        return end > sequence and len(await self._span(sequence + 1, end, ">")) < end - sequence

    # Trimming

    async def trim(self, *, before: int, subjects: str = ">") -> None:
        """Delete every record below the sequence `before`, but never the newest."""
        session = await self._connection.session(within=WITHIN)
        info = await stream_info(session, self.name)
        # A purge beyond the end would skip sequences that were never written.
        before = min(before, info.last)
        if before > info.first:
            wanted = {"seq": before} if subjects == ">" else {"seq": before, "filter": subjects}
            await call(session, self.name, f"STREAM.PURGE.{self.name}", wanted, within=WITHIN)

    async def advance(self, *, beyond: int) -> None:
        """Make the next record get a sequence above `beyond`: a purge beyond the end moves the end."""
        session = await self._connection.session(within=WITHIN)
        if (await stream_info(session, self.name)).last < beyond:
            await call(session, self.name, f"STREAM.PURGE.{self.name}", {"seq": beyond + 1}, within=WITHIN)

    # Work queue

    async def take(self, group: str) -> AsyncGenerator[Job]:
        """Take records off this work queue without end; see `EventLog.take`."""
        if self.spec.retention != "work_queue":
            raise EventLogError("log/no-queue", f"stream {self.name} is no work queue; follow it", about=group)

        def jobs_of(session: NatsSession) -> AsyncGenerator[Job | None]:
            return take_jobs(session, self.spec, group)

        async with contextlib.aclosing(self._reconnecting(jobs_of, doing="taking from")) as jobs:
            async for job in jobs:
                if not self._filter.why_foreign(job.record):
                    yield job
                    continue
                # An unacknowledged job returns to the queue, and is discarded at its next delivery.
                with contextlib.suppress(LogUnavailableError):
                    await job.done()

    # Requests

    async def _reconnecting(
        self, source: Callable[[NatsSession], AsyncGenerator[T | None]], *, doing: str
    ) -> AsyncGenerator[T]:
        """Yield from a source; after each failure start it again on a working session, with a back-off.

        Ends when the connection is closed. None of a source is not yielded: it shows only that the session works.
        `doing` is used in log lines.
        """
        delays = _BACKOFF.delays()
        while True:
            try:
                session = await self._connection.session()
                async with contextlib.aclosing(source(session)) as items:
                    async for item in items:
                        delays.reset()
                        if item is not None:
                            yield item
            except LogUnavailableError as error:
                if self._connection.closed:
                    return
                _log.debug("%s %s is interrupted: %s", doing, self.name, error)
            except JetStreamApiError as error:
                if error.number != NO_STREAM:
                    raise
                await self._recreate()
            await asyncio.sleep(delays.next())

    async def _info(self) -> StreamInfo:
        async with self._recreating():
            return await stream_info(await self._connection.session(within=WITHIN), self.name)

    async def _between(self, session: NatsSession, start: int, end: int, subjects: str) -> AsyncGenerator[Record]:
        """Yield the records from one sequence to another, including foreign ones."""
        if start > end:
            return
        policy = from_sequence(start)
        async with contextlib.aclosing(deliver(session, self.name, subjects=subjects, policy=policy)) as records:
            async for record in records:
                if record is None or record.sequence > end:
                    return
                if record.sequence >= start:
                    yield record
                if record.sequence == end:
                    return

    async def _span(self, low: int, high: int, subjects: str) -> list[Record]:
        session = await self._connection.session(within=WITHIN)
        async with self._recreating(), contextlib.aclosing(self._between(session, low, high, subjects)) as records:
            return [record async for record in records]

    async def _first(self) -> int:
        return (await self.bounds())[0]

    async def _last(self, subjects: str) -> Record | None:
        """Return the newest record of these subjects, own or foreign."""
        async with self._recreating():
            return await last_record(await self._connection.session(within=WITHIN), self.name, subjects)

    @contextlib.asynccontextmanager
    async def _recreating(self) -> AsyncGenerator[None]:
        """Create a stream again that is found missing in this block: its writer may not be running.

        Raises `LogUnavailableError` in that case, as for every outage.
        """
        try:
            yield
        except JetStreamApiError as error:
            if error.number != NO_STREAM:
                raise
            await self._recreate()
            raise LogUnavailableError("log/stream-gone", "the stream was gone; try again", about=self.name) from error

    async def _recreate(self) -> None:
        _log.warning("stream %s is gone; making it anew", self.name)
        await self._recreate_if_missing()

    async def _recreate_if_missing(self) -> None:
        """Create the stream if it was deleted; epoch and chain show readers that it is another one."""
        try:
            session = await self._connection.session(within=_RECREATE_WITHIN)
            await ensure_stream(session, self.spec, within=_CHECK_WITHIN, user=self._user)
        except LogUnavailableError as error:
            _log.debug("stream %s cannot be ensured now: %s", self.name, error)
