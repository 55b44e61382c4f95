"""The log in memory: what tests and simulations run on, with the same refusals as JetStream.

It also fails on demand: `lose`, `roll_back`, `corrupt` and an outage (`down`) are what happens to real logs, so
that services can be tried against them without a server.
"""

from __future__ import annotations

import asyncio
import bisect
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

import msgspec

from shared.eventlog.chain import chain_batch, check_size, checkpoint_at
from shared.eventlog.foreign import ForeignFilter, ForeignRecords
from shared.eventlog.own_records import OwnRecords
from shared.eventlog.protocol import (
    EMPTY,
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
from shared.eventlog.stream_spec import StreamSpec, matches


class MemoryLog:
    """One stream in memory; an `EventLog`. Made for one event loop."""

    def __init__(
        self,
        spec: StreamSpec | str = "MEMORY",
        *,
        clock: Callable[[], int] = time.time_ns,
        foreign: ForeignRecords | None = None,
    ) -> None:
        """`foreign` counts the records that are passed over."""
        self.spec = StreamSpec(name=spec, subjects=(">",), description="") if isinstance(spec, str) else spec
        self.foreign = foreign or ForeignRecords()
        self._filter = ForeignFilter(self.spec, self.foreign)
        self._own = OwnRecords(self._filter, self._span, self._first)
        self._clock = clock
        self._records: dict[int, Record] = {}
        self._order: list[int] = []
        self._next = 1
        self._incarnation = 0
        self._seen: dict[str, tuple[int, int]] = {}
        self._per_subject: dict[str, list[int]] = {}
        self._changed = asyncio.Event()
        self._down = False
        self._closed = False
        self.max_bytes = 0
        """Payload bytes that it takes; 0: any."""
        self._leased: dict[int, float] = {}

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.spec.name

    @property
    def sequences(self) -> list[int]:
        """Of the records that are there, for tests that damage some."""
        return list(self._order)

    # Writing

    async def append(self, drafts: Sequence[Draft], *, scope: str, after: Checkpoint, epoch: str = "") -> Checkpoint:
        """Append one atomic batch to a chained scope; see `EventLog.append`."""
        batch = chain_batch(drafts, scope=scope, after=after, epoch=epoch)
        self._check_up()
        self._forget_ids()
        last = self._newest(scope)
        found = last.sequence if last else 0
        if found != after.sequence and await self._own.end_of(scope, after, last) != found:
            raise StaleWriterError(
                "log/stale-writer", f"the scope ends at {found}, not at {after.sequence}: read on", about=scope
            )
        identifiers = [draft.message_id for draft in drafts if draft.message_id]
        for identifier in identifiers:
            if identifier in self._seen or identifiers.count(identifier) > 1:
                raise DuplicateError("log/duplicate", f"message id {identifier} was seen before", about=scope)
        for draft in drafts:
            self._check_subject(draft)
        self._check_room(drafts)
        sequence = 0
        for draft, headers in zip(drafts, batch.headers, strict=True):
            sequence = self._write(draft, headers)
        self._wake()
        return batch.checkpoint(sequence)

    async def publish(self, draft: Draft) -> int:
        """Append one unchained record; see `EventLog.publish`."""
        check_size([draft])
        self._check_up()
        self._check_subject(draft)
        self._forget_ids()
        if draft.message_id and draft.message_id in self._seen:
            return self._seen[draft.message_id][0]
        self._check_room([draft])
        sequence = self._write(draft, draft.headers)
        self._wake()
        return sequence

    # Reading

    async def read(self, *, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        """Yield what is there from `start` on; see `EventLog.read`."""
        self._check_up()
        reading = self._own.read_filter(subjects)
        for record in self._select(start, subjects):
            if await reading.is_own(record):
                yield record

    async def follow(self, *, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        """Yield records from `start` on for ever; see `EventLog.follow`."""
        wanted, delivered, incarnation = max(start, 1), 0, self._incarnation
        reading = self._own.read_filter(subjects)
        while not self._closed:
            changed = self._changed
            if incarnation != self._incarnation:
                wanted, delivered, incarnation = 1, 0, self._incarnation
                reading = self._own.read_filter(subjects)
            if delivered >= self._next:
                raise ChainBrokenError(
                    "log/rolled-back", f"record {delivered} was read, but the stream ends at {self._next - 1}"
                )
            if not self._down:
                for record in self._select(wanted, subjects):
                    wanted, delivered = record.sequence + 1, record.sequence
                    if await reading.is_own(record):
                        yield record
                    if changed is not self._changed:
                        break
            if changed is self._changed:
                await changed.wait()

    async def at(self, sequence: int) -> Record | None:
        """The first record at or after a sequence."""
        self._check_up()
        index = bisect.bisect_left(self._order, sequence)
        for number in self._order[index:]:
            if await self._own.is_own(self._records[number], content=False):
                return self._records[number]
        return None

    async def last(self, subject: str) -> Record | None:
        """The newest record of a subject or wildcard."""
        self._check_up()
        return await self._own.newest(self._newest(subject), subject, content=True)

    async def last_per_subject(self, subjects: str = ">") -> list[Record]:
        """The newest record of each subject that matches, by sequence."""
        self._check_up()
        newest = {subject: held[-1] for subject, held in self._per_subject.items() if matches(subjects, subject)}
        found = {subject: self._records[number] for subject, number in newest.items()}
        own = await self._own.newest_of_each(found, subjects)
        ordered = sorted(own.values(), key=lambda record: record.sequence)
        return [msgspec.structs.replace(r, pending=len(ordered) - 1 - i) for i, r in enumerate(ordered)]

    async def tip(self, scope: str) -> Checkpoint:
        """The checkpoint after the newest record of a chained scope."""
        self._check_up()
        last = await self._own.newest(self._newest(scope), scope, content=False)
        return checkpoint_at(last) if last else EMPTY

    async def bounds(self) -> tuple[int, int]:
        """First and last sequence; the first is last + 1 when the stream is empty."""
        self._check_up()
        last = self._next - 1
        return (self._order[0] if self._order else last + 1), last

    async def extent(self) -> Extent:
        """What the stream holds."""
        first, last = await self.bounds()
        return Extent(first=first, last=last, count=len(self._order))

    async def lacks_after(self, sequence: int) -> bool:
        """Whether a sequence above this one was given to a record that is not there."""
        self._check_up()
        return len(self._order) - bisect.bisect_right(self._order, sequence) < self._next - 1 - sequence

    async def trim(self, *, before: int, subjects: str = ">") -> None:
        """Forget every record below the sequence `before`, but never the newest."""
        self._check_up()
        before = min(before, self._next - 1)
        for sequence in self._order[: bisect.bisect_left(self._order, before)]:
            if matches(subjects, self._records[sequence].subject):
                self._drop(sequence)

    async def advance(self, *, beyond: int) -> None:
        """Give no sequence up to `beyond` to a record any more."""
        self._check_up()
        if beyond >= self._next:
            for sequence in list(self._order):
                self._drop(sequence)
            self._next = beyond + 1
            self._wake()

    async def take(self, group: str) -> AsyncGenerator[Job]:
        """Take records off this work queue for ever; each is with one taker at a time, whatever the `group`."""
        if self.spec.retention != "work_queue":
            raise EventLogError("log/no-queue", f"stream {self.name} is no work queue; follow it", about=group)
        while not self._closed:
            changed = self._changed
            now = asyncio.get_running_loop().time()
            free = None
            if not self._down:
                free = next((number for number in self._order if self._leased.get(number, 0.0) <= now), None)
            if free is not None and self._filter.why_foreign(self._records[free]):
                self.finish(free)
                continue
            if free is not None:
                self._leased[free] = now + self.spec.acknowledge_within
                yield _MemoryJob(self, self._records[free])
                continue
            until = min((self._leased[number] for number in self._order), default=None)
            try:
                async with asyncio.timeout_at(None if self._down else until):
                    await changed.wait()
            except TimeoutError:
                continue

    # What happens to real logs

    def down(self) -> None:
        """Begin an outage: calls raise `LogUnavailableError`, followers wait."""
        self._down = True
        self._wake()

    def up(self) -> None:
        """End the outage."""
        self._down = False
        self._wake()

    def close(self) -> None:
        """End followers and takers; other calls raise `LogUnavailableError`."""
        self._closed = True
        self.down()

    def lose(self, sequence: int) -> None:
        """Leave a hole where a record was."""
        self._drop(sequence)

    def roll_back(self, last: int) -> None:
        """Lose everything after `last`; its sequences will be given again."""
        for sequence in [number for number in self._order if number > last]:
            self._drop(sequence)
        self._next = last + 1
        self._seen.clear()
        self._wake()

    def intrude(self, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None) -> int:
        """Write a record as no writer of ours does, unchecked: what a server does of itself, or a stranger."""
        sequence = self._write(Draft(subject, payload), headers or {})
        self._wake()
        return sequence

    def corrupt(self, sequence: int, payload: bytes) -> None:
        """Change the bytes of a record in place."""
        self._records[sequence] = msgspec.structs.replace(self._records[sequence], payload=payload)

    def recreate(self) -> None:
        """Delete the stream and make it anew, empty, with sequences from 1."""
        self.roll_back(0)
        self._incarnation += 1
        self._wake()

    # Inside

    def release(self, sequence: int, *, at: float) -> None:
        """Let a taken record be taken again at loop time `at`."""
        if sequence in self._leased:
            self._leased[sequence] = at
            self._wake()

    def finish(self, sequence: int) -> None:
        """Remove a taken record for good."""
        self._leased.pop(sequence, None)
        if sequence in self._records:
            self._drop(sequence)

    def _check_up(self) -> None:
        if self._down:
            raise LogUnavailableError("log/unavailable", "the log cannot be reached; try again", about=self.name)

    def _check_subject(self, draft: Draft) -> None:
        if not any(matches(pattern, draft.subject) for pattern in self.spec.subjects):
            raise EventLogError("log/subject", f"stream {self.name} does not hold this subject", about=draft.subject)

    def _check_room(self, drafts: Sequence[Draft]) -> None:
        held = sum(len(record.payload) for record in self._records.values()) if self.max_bytes else 0
        if self.max_bytes and held + sum(len(draft.payload) for draft in drafts) > self.max_bytes:
            raise LogFullError(
                "log/stream-full", f"the log is full: it holds {held} of {self.max_bytes} bytes", about=self.name
            )

    def _forget_ids(self) -> None:
        oldest = self._clock() - int(self.spec.duplicate_window * 1e9)
        while self._seen:
            identifier, (_, moment) = next(iter(self._seen.items()))
            if moment >= oldest:
                break
            del self._seen[identifier]

    def _newest(self, pattern: str) -> Record | None:
        held = self._per_subject.get(pattern)
        if held:
            return self._records[held[-1]]
        return next(
            (
                self._records[number]
                for number in reversed(self._order)
                if matches(pattern, self._records[number].subject)
            ),
            None,
        )

    def _select(self, start: int, subjects: str) -> list[Record]:
        numbers = self._order[bisect.bisect_left(self._order, start) :]
        found = [record for record in map(self._records.__getitem__, numbers) if matches(subjects, record.subject)]
        count = len(found)
        return [msgspec.structs.replace(record, pending=count - 1 - i) for i, record in enumerate(found)]

    async def _span(self, low: int, high: int, subjects: str) -> list[Record]:
        numbers = self._order[bisect.bisect_left(self._order, low) : bisect.bisect_right(self._order, high)]
        return [record for record in map(self._records.__getitem__, numbers) if matches(subjects, record.subject)]

    async def _first(self) -> int:
        return self._order[0] if self._order else self._next

    def _write(self, draft: Draft, headers: Mapping[str, str]) -> int:
        sequence, now = self._next, self._clock()
        self._next += 1
        self._records[sequence] = Record(
            subject=draft.subject, sequence=sequence, payload=draft.payload, time=now, headers=dict(headers)
        )
        self._order.append(sequence)
        held = self._per_subject.setdefault(draft.subject, [])
        held.append(sequence)
        if draft.message_id:
            self._seen[draft.message_id] = (sequence, now)
        if self.spec.max_per_subject and len(held) > self.spec.max_per_subject:
            self._drop(held[0])
        return sequence

    def _drop(self, sequence: int) -> None:
        record = self._records.pop(sequence)
        del self._order[bisect.bisect_left(self._order, sequence)]
        held = self._per_subject[record.subject]
        held.remove(sequence)
        if not held:
            del self._per_subject[record.subject]

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class _MemoryJob:
    """A record taken from a `MemoryLog`."""

    def __init__(self, log: MemoryLog, record: Record) -> None:
        self._log = log
        self._record = record

    @property
    def record(self) -> Record:
        """What was taken."""
        return self._record

    async def done(self) -> None:
        """Take it out of the queue for good."""
        self._log.finish(self._record.sequence)

    async def retry(self, *, after: float) -> None:
        """Put it back; another taker may have it after `after` seconds."""
        self._log.release(self._record.sequence, at=asyncio.get_running_loop().time() + after)
