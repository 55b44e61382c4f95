"""The log on NATS JetStream.

Correctness lies in what the server checks (expected sequences, message ids, atomic batches), never in what this
client remembers: it may be killed at any instruction. What the server does not check, whether the stream still is
the one that was read, is noticed here where sequences show it, and by `shared.eventlog.chain` where they do not.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import secrets
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence

import msgspec

from shared.errors import BadInputError
from shared.eventlog.chain import Forged, check_size, checkpoint_at, forge
from shared.eventlog.durable import NO_CLUSTER, refuse, refuse_copies, weaknesses
from shared.eventlog.foreign import Foreign, Screen
from shared.eventlog.fullness import explained
from shared.eventlog.jetstream.api import (
    BATCH_ABANDONED,
    BATCH_COMMIT,
    BATCH_ID,
    BATCH_SEQUENCE,
    DUPLICATE_IN_BATCH,
    EXPECTED_SEQUENCE,
    EXPECTED_SUBJECT,
    MESSAGE_ID,
    NO_STREAM,
    SMALL_WITHIN,
    WITHIN,
    WRONG_LAST_SEQUENCE,
    ApiError,
    StreamState,
    answer_of,
    call,
    ensure_stream,
    last_record,
    record_at,
    stream_state,
)
from shared.eventlog.jetstream.connection import Access, Connection, Line
from shared.eventlog.jetstream.ordered import deliver
from shared.eventlog.jetstream.queue import take_jobs
from shared.eventlog.look_behind import Behind
from shared.eventlog.protocol import (
    EMPTY,
    BatchAbandonedError,
    ChainBrokenError,
    Checkpoint,
    Draft,
    DuplicateError,
    EventLogError,
    Extent,
    Job,
    LogFullError,
    LogUnavailableError,
    Record,
    StaleWriterError,
)
from shared.eventlog.streams import StreamSettings, StreamSpec, specs
from shared.records.subjects import Streams
from shared.service.settings import CommonSettings
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)

_PUBLISH_FOR = 15.0
"""Seconds for which `publish` tries again; an election takes 5 to 6."""
_BACKOFF = Backoff(first=0.1, longest=0.4)
_RECREATE_WITHIN = 0.1
"""Seconds to wait for a connection before a missing stream is left to the next attempt."""
_IN_PASSING = 0.3
"""Seconds that a writer spends on looking whether its stream is still there, when it was not answered: if it is, and
merely has no leader, nobody answers that either."""
_BEHIND = 16
"""Times that an append is tried again because a foreign record came in between."""


class JetStreamLog:
    """One stream on JetStream; an `EventLog`. Opened by `JetStreamLogs`."""

    def __init__(
        self, spec: StreamSpec, connection: Connection, foreign: Foreign | None = None, *, user: str = ""
    ) -> None:
        """`foreign` counts the records that are passed over. `user` is who reads and writes."""
        self.spec = spec
        self._user = user
        self.foreign = foreign or Foreign()
        self._connection = connection
        self._screen = Screen(spec, self.foreign)
        self._behind = Behind(self._screen, self._span, self._first)

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.spec.name

    # Writing

    async def append(self, drafts: Sequence[Draft], *, scope: str, after: Checkpoint, epoch: str = "") -> Checkpoint:
        """Append one atomic batch to a chained scope; see `EventLog.append`."""
        forged = forge(drafts, scope=scope, after=after, epoch=epoch)
        line = await self._connection.line(within=WITHIN)
        end = after.sequence
        for tried in range(_BEHIND + 1):
            try:
                return forged.checkpoint(await self._append_at(line, drafts, forged, scope=scope, end=end))
            except StaleWriterError:
                found = await self._end_behind(line, scope, after)
                if found in {None, end} or tried == _BEHIND:
                    raise
                # Only foreign records came since.
                end = found or 0
        raise AssertionError("the last attempt raises")

    async def _append_at(self, line: Line, drafts: Sequence[Draft], forged: Forged, *, scope: str, end: int) -> int:
        """Write if the scope ends at `end`; the sequence of the last record."""
        expected = {EXPECTED_SEQUENCE: str(end), EXPECTED_SUBJECT: scope}
        try:
            if len(drafts) == 1:
                return await self._append_one(line, drafts[0], {**forged.headers[0], **expected})
            return await self._append_batch(line, drafts, forged, expected)
        except ApiError as error:
            if error.number in WRONG_LAST_SEQUENCE:
                raise StaleWriterError(
                    "log/stale-writer", f"the scope no longer ends at {end}: read on", about=scope
                ) from error
            if error.number == DUPLICATE_IN_BATCH:
                raise DuplicateError("log/duplicate", "a message id was seen before", about=scope) from error
            if error.number in BATCH_ABANDONED:
                sentence = f"the server gave the batch up ({error.reason}), nothing of it is written; try again"
                raise BatchAbandonedError("log/batch-abandoned", sentence, about=scope) from error
            raise
        except LogFullError as error:
            raise await explained(line, self.name, error) from error
        except LogUnavailableError:
            await self._recreate_if_missing()
            raise

    async def _end_behind(self, line: Line, scope: str, after: Checkpoint) -> int | None:
        """Where the scope ends if only foreign records stand behind `after`; none: it has moved on, or cannot tell."""
        async with self._there():
            return await self._behind.end_of(scope, after, await last_record(line, self.name, scope))

    async def publish(self, draft: Draft) -> int:
        """Append one unchained record; see `EventLog.publish`.

        Tried again for some seconds under one message id while the log is unavailable, so it is written once. A log
        that takes no more takes none in some seconds either: that is raised at once.
        """
        check_size([draft])
        headers = {**draft.headers, MESSAGE_ID: draft.message_id or secrets.token_hex(12)}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PUBLISH_FOR
        delays = _BACKOFF.delays()
        while True:
            try:
                line = await self._connection.line(within=max(deadline - loop.time(), 0.001))
                return await self._publish_once(line, draft, headers)
            except LogFullError:
                raise
            except LogUnavailableError:
                pause = delays.next()
                if self._connection.closed or loop.time() + pause >= deadline:
                    raise
            await self._recreate_if_missing()
            await asyncio.sleep(pause)

    async def _publish_once(self, line: Line, draft: Draft, headers: dict[str, str]) -> int:
        message = await line.request(draft.subject, draft.payload, within=SMALL_WITHIN, headers=headers)
        try:
            return int(answer_of(message, about=draft.subject)["seq"])
        except LogFullError as error:
            raise await explained(line, self.name, error) from error

    # Reading

    async def read(self, *, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        """Yield what is there from `start` on; see `EventLog.read`."""
        line = await self._connection.line(within=WITHIN)
        async with self._there():
            end = (await stream_state(line, self.name)).last
        sieve = self._behind.sieve(subjects)
        async with contextlib.aclosing(self._between(line, start, end, subjects)) as records:
            async for record in records:
                if await sieve.own(record):
                    yield record

    async def follow(self, *, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        """Yield records from `start` on for ever; see `EventLog.follow`.

        Raises `ChainBrokenError` when the stream is seen to have been rolled back behind what was yielded. A stream
        that was deleted and made anew is followed from its beginning.
        """
        place = _Place(wanted=max(start, 1))
        sieve = self._behind.sieve(subjects)
        delays = _BACKOFF.delays()
        while True:
            try:
                line = await self._connection.line()
                if place.resume(await stream_state(line, self.name)):
                    sieve = self._behind.sieve(subjects)
                async with contextlib.aclosing(
                    deliver(line, self.name, subjects=subjects, policy=_from_sequence(place.overlap))
                ) as records:
                    async for record in records:
                        delays.reset()
                        if record is not None and place.advance(record) and await sieve.own(record):
                            yield record
            except LogUnavailableError as error:
                if self._connection.closed:
                    return
                _log.debug("following %s is interrupted: %s", self.name, error)
            except ApiError as error:
                if error.number != NO_STREAM:
                    raise
                _log.warning("stream %s is gone; making it anew", self.name)
                await self._recreate_if_missing()
            await asyncio.sleep(delays.next())

    async def at(self, sequence: int) -> Record | None:
        """The first record at or after a sequence, as the stream's leader has it."""
        async with self._there():
            found = await record_at(await self._connection.line(within=WITHIN), self.name, sequence)
        if found is None or await self._behind.counts(found, content=False):
            return found
        async with contextlib.aclosing(self.read(start=found.sequence + 1)) as records:
            async for record in records:
                return record
        return None

    async def last(self, subject: str) -> Record | None:
        """The newest record of a subject or wildcard, as the stream's leader has it."""
        return await self._behind.newest(await self._last(subject), subject, content=True)

    async def last_per_subject(self, subjects: str = ">") -> list[Record]:
        """The newest record of each subject that matches, by sequence."""
        line = await self._connection.line(within=WITHIN)
        async with self._there():
            end = (await stream_state(line, self.name)).last
        newest: dict[str, Record] = {}
        policy: dict[str, object] = {"deliver_policy": "last_per_subject", "filter_subject": subjects}
        async with contextlib.aclosing(deliver(line, self.name, subjects=subjects, policy=policy)) as records:
            async for record in records:
                if record is None:
                    break
                newest[record.subject] = record
                if record.sequence >= end:
                    break
        own = await self._behind.newest_of_each(newest, subjects)
        ordered = sorted(own.values(), key=lambda record: record.sequence)
        return [msgspec.structs.replace(r, pending=len(ordered) - 1 - i) for i, r in enumerate(ordered)]

    async def tip(self, scope: str) -> Checkpoint:
        """The checkpoint after the newest record of a chained scope."""
        last = await self._behind.newest(await self._last(scope), scope, content=False)
        return checkpoint_at(last) if last else EMPTY

    async def bounds(self) -> tuple[int, int]:
        """First and last sequence; the first is last + 1 when the stream is empty."""
        async with self._there():
            state = await stream_state(await self._connection.line(within=WITHIN), self.name)
        return state.first, state.last

    async def extent(self) -> Extent:
        """What the stream holds, as its leader counts it."""
        async with self._there():
            state = await stream_state(await self._connection.line(within=WITHIN), self.name)
        return Extent(first=state.first, last=state.last, count=state.count)

    async def lacks_after(self, sequence: int) -> bool:
        """Whether a sequence above this one was given to a record that is not there."""
        line = await self._connection.line(within=WITHIN)
        async with self._there():
            end = (await stream_state(line, self.name)).last
        return end > sequence and len(await self._span(sequence + 1, end, ">")) < end - sequence

    async def trim(self, *, before: int, subjects: str = ">") -> None:
        """Forget every record below the sequence `before`, but never the newest."""
        line = await self._connection.line(within=WITHIN)
        state = await stream_state(line, self.name)
        # Purged beyond its end, a stream would go on behind sequences that were never written.
        before = min(before, state.last)
        if before > state.first:
            wanted = {"seq": before} if subjects == ">" else {"seq": before, "filter": subjects}
            await call(line, self.name, f"STREAM.PURGE.{self.name}", wanted, within=WITHIN)

    async def advance(self, *, beyond: int) -> None:
        """Give no sequence up to `beyond` to a record any more: a purge beyond the end moves the end."""
        line = await self._connection.line(within=WITHIN)
        if (await stream_state(line, self.name)).last < beyond:
            await call(line, self.name, f"STREAM.PURGE.{self.name}", {"seq": beyond + 1}, within=WITHIN)

    async def take(self, group: str) -> AsyncGenerator[Job]:
        """Take records off this work queue for ever; see `EventLog.take`."""
        if self.spec.retention != "work_queue":
            raise EventLogError("log/no-queue", f"stream {self.name} is no work queue; follow it", about=group)
        delays = _BACKOFF.delays()
        while True:
            try:
                line = await self._connection.line()
                async with contextlib.aclosing(take_jobs(line, self.spec, group)) as jobs:
                    async for job in jobs:
                        delays.reset()
                        if self._screen.outside(job.record):
                            await job.done()
                            continue
                        yield job
            except LogUnavailableError as error:
                if self._connection.closed:
                    return
                _log.debug("taking from %s is interrupted: %s", self.name, error)
            except ApiError as error:
                if error.number != NO_STREAM:
                    raise
                _log.warning("stream %s is gone; making it anew", self.name)
                await self._recreate_if_missing()
            await asyncio.sleep(delays.next())

    # Inside

    async def _between(self, line: Line, start: int, end: int, subjects: str) -> AsyncGenerator[Record]:
        """What stands from one sequence to another, foreign records too."""
        if start > end:
            return
        async with contextlib.aclosing(
            deliver(line, self.name, subjects=subjects, policy=_from_sequence(start))
        ) as records:
            async for record in records:
                if record is None or record.sequence > end:
                    return
                if record.sequence >= start:
                    yield record
                if record.sequence == end:
                    return

    async def _span(self, low: int, high: int, subjects: str) -> list[Record]:
        line = await self._connection.line(within=WITHIN)
        async with self._there(), contextlib.aclosing(self._between(line, low, high, subjects)) as records:
            return [record async for record in records]

    async def _first(self) -> int:
        return (await self.bounds())[0]

    async def _last(self, subjects: str) -> Record | None:
        """The newest record of these subjects, whoever wrote it."""
        async with self._there():
            return await last_record(await self._connection.line(within=WITHIN), self.name, subjects)

    async def _append_one(self, line: Line, draft: Draft, headers: Mapping[str, str]) -> int:
        identified = {**headers, MESSAGE_ID: draft.message_id} if draft.message_id else headers
        message = await line.request(draft.subject, draft.payload, within=SMALL_WITHIN, headers=identified)
        answer = answer_of(message, about=draft.subject)
        if answer.get("duplicate"):
            raise DuplicateError("log/duplicate", f"message id {draft.message_id} was seen before", about=draft.subject)
        return int(answer["seq"])

    async def _append_batch(
        self, line: Line, drafts: Sequence[Draft], forged: Forged, expected: Mapping[str, str]
    ) -> int:
        """One atomic batch (ADR-50): nothing is written before the commit, and then all of it."""
        batch = base64.urlsafe_b64encode(secrets.token_bytes(15)).decode()
        for index, (draft, own) in enumerate(zip(drafts, forged.headers, strict=True), start=1):
            headers = {**own, BATCH_ID: batch, BATCH_SEQUENCE: str(index)}
            if index == 1:
                headers |= expected
            if draft.message_id:
                headers[MESSAGE_ID] = draft.message_id
            if index < len(drafts):
                await line.publish(draft.subject, draft.payload, headers=headers)
                continue
            headers[BATCH_COMMIT] = "1"
            message = await line.request(draft.subject, draft.payload, within=WITHIN, headers=headers)
            return int(answer_of(message, about=draft.subject)["seq"])
        raise AssertionError("a batch has at least one record")

    @contextlib.asynccontextmanager
    async def _there(self) -> AsyncGenerator[None]:
        """Reading a stream that is gone makes it anew, for whoever only reads: nobody may be left to write it first.

        Raises `LogUnavailableError` for this time, as every outage does.
        """
        try:
            yield
        except ApiError as error:
            if error.number != NO_STREAM:
                raise
            _log.warning("stream %s is gone; making it anew", self.name)
            await self._recreate_if_missing()
            raise LogUnavailableError("log/stream-gone", "the stream was gone; try again", about=self.name) from error

    async def _recreate_if_missing(self) -> None:
        """A stream that was deleted is made anew: readers see by epoch and chain that it is another one."""
        try:
            line = await self._connection.line(within=_RECREATE_WITHIN)
            await ensure_stream(line, self.spec, within=_IN_PASSING, user=self._user)
        except LogUnavailableError as error:
            _log.debug("stream %s cannot be ensured now: %s", self.name, error)


class _Place:
    """Where a follower stands, and whether the stream is still the one that it followed."""

    def __init__(self, *, wanted: int) -> None:
        self._wanted = wanted
        self._delivered: Record | None = None
        self._created = ""

    @property
    def overlap(self) -> int:
        """Where to start: at the record yielded last, to see that it is still the same."""
        return self._delivered.sequence if self._delivered else self._wanted

    def resume(self, state: StreamState) -> bool:
        """Start or start again on a stream in this state; whether it was made anew since."""
        anew = bool(self._created) and state.created != self._created
        if anew:
            self._wanted, self._delivered = 1, None
        self._created = state.created
        if self._delivered is not None and state.last < self._delivered.sequence:
            raise _rolled_back(self._delivered, f"the stream ends at {state.last}")
        return anew

    def advance(self, record: Record) -> bool:
        """Take what was delivered; whether it is new."""
        held = self._delivered
        if held is not None and record.sequence == held.sequence:
            if record.time != held.time:
                raise _rolled_back(held, "that sequence now holds another")
            return False
        if record.sequence < self._wanted:
            return False
        self._wanted, self._delivered = record.sequence + 1, record
        return True


def _rolled_back(held: Record, found: str) -> ChainBrokenError:
    return ChainBrokenError("log/rolled-back", f"record {held.sequence} was read, but {found}", about=held.subject)


def _from_sequence(start: int) -> dict[str, object]:
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": max(start, 1)}


def _tls(ca_file: str) -> ssl.SSLContext | None:
    if not ca_file:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise BadInputError("settings/nats-ca", f"holds no certificates ({error})", about=ca_file) from error


class JetStreamLogs:
    """The streams of one mesh on NATS, by name; a `Logs`."""

    def __init__(self, access: Access, streams: Streams, settings: StreamSettings | None = None) -> None:
        self.foreign = Foreign()
        """What was passed over in all of them."""
        self._specs = specs(streams, settings)
        self._durable = settings is not None and settings.durable
        self._whole = streams.events
        self._user = access.user
        self._connection = Connection(access)
        self._ensured: set[str] = set()

    @classmethod
    def connect(cls, access: Access, streams: Streams, settings: StreamSettings | None = None) -> JetStreamLogs:
        """Begin to connect, without waiting: the log may come later than its users."""
        logs = cls(access, streams, settings)
        logs._connection.open()
        return logs

    @classmethod
    def from_settings(cls, settings: CommonSettings, *, name: str) -> JetStreamLogs:
        """Begin to connect as a service's settings say; `name` is for the server's monitoring.

        Raises `BadInputError` for settings that contradict each other.
        """
        if settings.durable:
            refuse_copies(settings.replicas)
        access = Access(
            servers=tuple(url.strip() for url in settings.nats_url.split(",")),
            name=name,
            user=settings.nats_user,
            password_file=settings.nats_password_file,
            tls=_tls(settings.nats_ca_file),
            inbox=f"_INBOX_{settings.nats_user}" if settings.nats_user else "_INBOX",
            accounts=settings.nats_accounts,
        )
        kept = StreamSettings(replicas=settings.replicas, durable=settings.durable)
        return cls.connect(access, settings.streams, kept)

    @property
    def connected(self) -> bool:
        """Whether the log can be reached at this moment."""
        return self._connection.connected

    async def open(self, stream: str) -> JetStreamLog:
        """The stream of that name, created if it is missing; waits while the log cannot be reached."""
        await self.ensure(stream)
        return JetStreamLog(self._specs[stream], self._connection, self.foreign, user=self._user)

    def existing(self, stream: str) -> JetStreamLog:
        """The stream of that name as it is: for who may read and must not create."""
        return JetStreamLog(self._specs[stream], self._connection, self.foreign, user=self._user)

    async def ensure(self, *names: str) -> None:
        """Create the streams named (none: all of the mesh) where they are missing; safe to race with others.

        Raises `BadInputError` where they must be durable and are not; see `shared.eventlog.durable`.
        """
        for name in names or tuple(self._specs):
            spec = self._specs.get(name)
            if spec is None:
                raise EventLogError("log/stream", "is no stream of this mesh", about=name)
            delays = _BACKOFF.delays()
            while name not in self._ensured:
                try:
                    await self._ensure(await self._connection.line(), spec)
                    self._ensured.add(name)
                except LogUnavailableError as error:
                    if self._connection.closed:
                        raise
                    _log.debug("stream %s cannot be created yet: %s", name, error)
                    await asyncio.sleep(delays.next())

    async def _ensure(self, line: Line, spec: StreamSpec) -> None:
        try:
            config = await ensure_stream(line, spec, user=self._user)
        except ApiError as error:
            if self._durable and error.number == NO_CLUSTER:
                refuse(spec.name, ["can have one copy only, for its NATS server is no cluster"])
            raise
        if self._durable:
            refuse(spec.name, weaknesses(spec, config, whole=spec.name == self._whole))

    async def close(self) -> None:
        """Let go of the connection."""
        await self._connection.close()
