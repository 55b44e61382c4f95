"""Follows a stream over several sessions: where it stands, and whether the stream is still the one that it followed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from shared.eventlog.jetstream.nats_connection import NatsSession
from shared.eventlog.jetstream.ordered_consumer import deliver
from shared.eventlog.jetstream.stream_api import StreamInfo, stream_info
from shared.eventlog.own_records import OwnRecords
from shared.eventlog.protocol import ChainBrokenError, Record


class Follower:
    """One `EventLog.follow` call. Mutable: one owner."""

    def __init__(self, stream: str, own: OwnRecords, *, start: int, subjects: str) -> None:
        self._stream = stream
        self._own = own
        self._subjects = subjects
        self._position = FollowPosition(wanted=max(start, 1))
        self._reading = own.read_filter(subjects)

    async def read(self, session: NatsSession) -> AsyncGenerator[Record | None]:
        """Yield from where the last session ended: a record, or None for a delivery that the caller must not see.

        Raises `ChainBrokenError` if the stream was rolled back behind a record that was yielded, and
        `LogUnavailableError` when the session ends: call it again with another session.
        """
        if self._position.resume(await stream_info(session, self._stream)):
            self._reading = self._own.read_filter(self._subjects)
        policy = from_sequence(self._position.overlap)
        deliveries = deliver(session, self._stream, subjects=self._subjects, policy=policy)
        async with contextlib.aclosing(deliveries) as records:
            async for record in records:
                yield record if record is not None and await self._accept(record) else None

    async def _accept(self, record: Record) -> bool:
        """Whether a record is new and the stream's own."""
        if not self._position.is_new(record):
            return False
        # May raise `LogUnavailableError`: then the next session has to deliver the record again.
        own = await self._reading.is_own(record)
        self._position.advance(record)
        return own


class FollowPosition:
    """Position in a stream that may be rolled back, or deleted and created again, between two sessions."""

    def __init__(self, *, wanted: int) -> None:
        self._wanted = wanted
        self._delivered: Record | None = None
        self._created = ""

    @property
    def overlap(self) -> int:
        """The sequence to start at: the record yielded last, to compare it with what is stored there now."""
        return self._delivered.sequence if self._delivered else self._wanted

    def resume(self, info: StreamInfo) -> bool:
        """Start, or start again, on a stream in this state; return whether it was created again since.

        Raises `ChainBrokenError` if it ends before the record yielded last.
        """
        recreated = bool(self._created) and info.created != self._created
        if recreated:
            self._wanted, self._delivered = 1, None
        self._created = info.created
        if self._delivered is not None and info.last < self._delivered.sequence:
            raise _rolled_back(self._delivered, f"the stream ends at {info.last}")
        return recreated

    def is_new(self, record: Record) -> bool:
        """Whether a delivered record is wanted and was not yielded.

        Raises `ChainBrokenError` if its sequence was that of another record.
        """
        held = self._delivered
        if held is not None and record.sequence == held.sequence:
            if record.time != held.time:
                raise _rolled_back(held, "that sequence now holds another")
            return False
        return record.sequence >= self._wanted

    def advance(self, record: Record) -> None:
        """Move behind a new record."""
        self._wanted, self._delivered = record.sequence + 1, record


def _rolled_back(held: Record, found: str) -> ChainBrokenError:
    return ChainBrokenError("log/rolled-back", f"record {held.sequence} was read, but {found}", about=held.subject)


def from_sequence(start: int) -> dict[str, object]:
    """Return the delivery policy of a consumer that starts at a sequence."""
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": max(start, 1)}
