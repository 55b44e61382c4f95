"""The interface of the log: the methods of one stream, and what readers and writers may rely on.

Two implementations, `shared.eventlog.memory` and `shared.eventlog.jetstream.event_log`, pass one conformance suite
(`tests/conformance/eventlog`). Services import from here and receive an implementation.

**Chains.** JetStream can lose acknowledged messages to disk corruption without an error, so a writer of a chained
scope (all events of one cluster; all commits) puts three headers on every record: the epoch, the hash of the chain
*before* the record, and its place in its atomic batch. `chain_after` continues the hash. A writer names the
checkpoint that it writes after; the log refuses (`StaleWriterError`) when the scope has moved on, which also
makes the writer's view of the chain true. A reader folds records with `shared.eventlog.chain.ChainVerifier`, which
raises `ChainBrokenError` at a hole, a rollback or a changed byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

import msgspec

from shared.errors import MeshlogError

HEADER_EPOCH = "Meshlog-Epoch"
HEADER_CHAIN = "Meshlog-Chain"
"""Hash of the chain before this record, 32 hex digits."""
HEADER_AFTER = "Meshlog-After"
"""Hash of the chain after this record, so that a changed byte is detected at this record and not at the next. Records
of older builds have none, and are verified by their successors."""
HEADER_BATCH = "Meshlog-Batch"
"""`i/n`: this is record i of an atomic batch of n, counted from 1."""

HEADER_EPOCH_RECORDS = "Meshlog-Epoch-Records"
"""On the first record of an epoch: how many records the epoch begins with. Until all are there, in however many
batches, the epoch is incomplete, and nothing is compiled from it."""

HEADER_KEPT = "Meshlog-Kept"
"""On a copy of the record of that sequence, which is about to be deleted."""

HEADER_BEGINS = "Meshlog-Begins"
"""On a record that was written before a trim: the sequence with which the scope may begin from now on, and a seal. A
draft gives the sequence only; see `shared.eventlog.trim_marker`."""

GENESIS = "0" * 32
"""The hash before the first record of an epoch."""

MAX_BATCH = 1000
"""Records in one atomic batch; the limit is the NATS server's."""

MAX_PAYLOAD = 768 * 1024
"""Bytes in one record: below the 1 MiB of a default NATS server, with room for headers."""


class EventLogError(MeshlogError):
    """A failure of the log itself."""


class LogUnavailableError(EventLogError):
    """The log cannot be reached or has no leader now. The same call may be tried again."""


class BatchAbandonedError(LogUnavailableError):
    """The server abandoned a batch, because it came too slowly or too many were open. Nothing of it was written.

    The same call may be tried again.
    """


class LogFullError(LogUnavailableError):
    """A stream or the servers reached a limit: no record is accepted. Nothing was written, and all can be read.

    The same call succeeds once there is room.
    """

    def __init__(self, code: str, sentence: str, *, about: str = "", reason: str = "") -> None:
        super().__init__(code, sentence, about=about)
        self.reason = reason
        """The reason that the server gave."""

    @property
    def of_stream(self) -> bool:
        """Whether it is the limit of one stream, and not of the servers' storage."""
        return self.code == "log/stream-full"


class StaleWriterError(EventLogError):
    """Another writer appended to the scope after the checkpoint given: read on, decide again."""


class DuplicateError(EventLogError):
    """A batch holds a message id that the log has seen. Nothing of the batch was written."""


class BatchTooLargeError(EventLogError):
    """More than `MAX_BATCH` records, or a record above `MAX_PAYLOAD` bytes. Nothing was written."""


class ChainBrokenError(EventLogError):
    """A record does not continue the chain: something before it was lost, reordered or changed."""


class Checkpoint(msgspec.Struct, frozen=True):
    """A place in a chained scope. Never a sequence alone: a rolled-back stream reuses sequences."""

    epoch: str
    """Id of the epoch; a new one starts when the log was found broken. Empty: the scope is empty."""
    sequence: int
    """Sequence of the last record of the scope; 0 if it is empty."""
    chain: str
    """Hash of the chain after that record."""


class Extent(msgspec.Struct, frozen=True):
    """What a stream holds, as it counts it itself."""

    first: int
    """Sequence of the first record; last + 1 if there is none."""
    last: int
    count: int
    """Records."""

    @property
    def gaps(self) -> int:
        """Sequences between the first and the last that hold no record."""
        return self.last - self.first + 1 - self.count

    def lacks(self, before: Extent) -> bool:
        """Whether records are gone that were there `before`, which is the same stream earlier."""
        return self.first > before.first or self.gaps > before.gaps


EMPTY = Checkpoint(epoch="", sequence=0, chain=GENESIS)
"""The checkpoint of an empty scope."""


class Draft(msgspec.Struct, frozen=True):
    """A record to be written."""

    subject: str
    payload: bytes
    message_id: str = ""
    """Dedupe key, effective for the stream's duplicate window (2 minutes); empty: none."""
    headers: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    """Further headers, such as `traceparent`. Not part of the chain hash."""


class Record(msgspec.Struct, frozen=True):
    """A record as the log holds it."""

    subject: str
    sequence: int
    payload: bytes
    time: int
    """When the log stored it, nanoseconds since 1970 by the log's clock. For people only; the order is `sequence`."""
    headers: Mapping[str, str]
    pending: int = 0
    """How many records of the same read or follow came after it when it was delivered; 0: caught up."""

    @property
    def epoch(self) -> str:
        """Epoch of a chained record, else empty."""
        return self.headers.get(HEADER_EPOCH, "")

    @property
    def batch(self) -> tuple[int, int]:
        """Place in its atomic batch, `(i, n)` from 1; `(1, 1)` for a single record, or with a malformed header."""
        index, _, count = self.headers.get(HEADER_BATCH, "1/1").partition("/")
        if not (index.isdecimal() and count.isdecimal() and len(count) <= 4 and 1 <= int(index) <= int(count)):
            return 1, 1
        return int(index), int(count)

    @property
    def ends_batch(self) -> bool:
        """Whether the atomic batch is complete with this record."""
        index, count = self.batch
        return index == count


def epoch_records(record: Record) -> int:
    """Return how many records begin the epoch that this record starts; 1 without the header."""
    text = record.headers.get(HEADER_EPOCH_RECORDS, "")
    return int(text) if text.isdecimal() else 1


class Job(Protocol):
    """One record taken from a work queue. It returns to the queue unless it is acknowledged in time."""

    @property
    def record(self) -> Record:
        """What was taken."""
        ...

    async def done(self) -> None:
        """Take the record out of the queue for good."""
        ...

    async def retry(self, *, after: float) -> None:
        """Put it back; another taker may have it after `after` seconds."""
        ...


def chain_after(before: str, subject: str, payload: bytes) -> str:
    """The hash of the chain after a record: the first 32 hex digits of SHA-256(before, subject, payload)."""
    digest = hashlib.sha256()
    digest.update(before.encode("ascii"))
    digest.update(b"\n")
    digest.update(subject.encode("utf-8"))
    digest.update(b"\n")
    digest.update(payload)
    return digest.hexdigest()[:32]


class EventLog(Protocol):
    """One stream of the log.

    Foreign records (`shared.eventlog.foreign`) are in none of its answers but `bounds` and `extent`: they are passed
    over, and writers write behind them.
    """

    @property
    def name(self) -> str:
        """The stream's name."""
        ...

    async def append(self, drafts: Sequence[Draft], *, scope: str, after: Checkpoint, epoch: str = "") -> Checkpoint:
        """Append one atomic batch to the chained `scope` (a subject or a wildcard that covers every draft).

        Returns the checkpoint after it. `epoch` starts a new epoch: the chain restarts from `GENESIS` under that
        id (needed for the very first append too; empty continues `after.epoch`). Raises `StaleWriterError` if the
        scope's last record is not `after.sequence`, `DuplicateError`, `BatchTooLargeError`, `LogUnavailableError`.
        Nothing is written if it raises, except after `LogUnavailableError`: then read the tip to know. Where an
        append is both stale and a duplicate (it is repeated after its answer was lost), either error may be raised.
        """
        ...

    async def publish(self, draft: Draft) -> int:
        """Append one unchained record; returns its sequence (the earlier one if its message id was seen)."""
        ...

    def read(self, *, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        """Yield the records from sequence `start` on that are there now, in order, then end."""
        ...

    def follow(self, *, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        """Yield records from sequence `start` on, in order, until the `Logs` is closed; outages are waited out inside.

        `start` may lie beyond the end. Never skips and never repeats a record that the stream still holds. Raises
        `ChainBrokenError` when the stream is seen to have lost what was yielded; a stream that was deleted and made
        anew is followed from its beginning (a `ChainVerifier` detects both).
        """
        ...

    async def at(self, sequence: int) -> Record | None:
        """Return the first record at or after a sequence; None beyond the end."""
        ...

    async def last(self, subject: str) -> Record | None:
        """The newest record of a subject (or of a wildcard), if any."""
        ...

    async def last_per_subject(self, subjects: str = ">") -> list[Record]:
        """The newest record of each subject that matches, by sequence."""
        ...

    async def tip(self, scope: str) -> Checkpoint:
        """The checkpoint after the newest record of a chained scope; `EMPTY` if there is none."""
        ...

    async def bounds(self) -> tuple[int, int]:
        """First and last sequence of the stream; the first is last + 1 when it is empty."""
        ...

    async def extent(self) -> Extent:
        """Return how much the stream holds: a cheap check for records that were lost from its middle."""
        ...

    async def lacks_after(self, sequence: int) -> bool:
        """Whether a sequence above this one was given to a record that is not there: its end was lost."""
        ...

    async def trim(self, *, before: int, subjects: str = ">") -> None:
        """Delete every record below the sequence `before` (of these subjects).

        Readers that start there or later see no difference. The stream's newest record always stays, so that its
        chain goes on. For streams that their writer keeps short: commits, keyframes, events behind a checkpoint.
        """
        ...

    async def advance(self, *, beyond: int) -> None:
        """Make the next record get a sequence above `beyond`; no effect if the stream is further already.

        For a stream that was rolled back or created again: a version is a sequence, and versions only grow.
        The remaining records are deleted: the caller begins a new epoch at once.
        """
        ...

    def take(self, group: str) -> AsyncGenerator[Job]:
        """Take records off a work-queue stream until `Logs` is closed, each with one taker of the group at a time."""
        ...


class Logs(Protocol):
    """The streams of one mesh, opened by name. `MemoryLogs` and `JetStreamLogs` implement it."""

    async def open(self, stream: str) -> EventLog:
        """Return the stream of that name (`Streams.events`, for example), created if it is missing.

        Waits, with one log line, while the log cannot be reached.
        """
        ...

    async def ensure(self, *names: str) -> None:
        """Create the named streams, or all of the mesh, if they are missing; safe to race with others."""
        ...

    async def close(self) -> None:
        """Close the connection: followers and takers end, other calls raise `LogUnavailableError`."""
        ...
