"""Reads the streams of other writers for what the log of events alone cannot show: compiled versions, and pins."""

from __future__ import annotations

from typing import Protocol

import msgspec

from services.ingestor.log.epoch_carryover import carried_pins
from shared.eventlog.epoch import latest_of
from shared.eventlog.protocol import Draft, EventLog, Logs
from shared.records import chunked_payload
from shared.records.subjects import Streams


class CompiledPosition(msgspec.Struct, frozen=True):
    """Up to where the compiler has read the events."""

    version: int = 0
    """Version of the newest snapshot; 0: there is none."""
    epoch: str = ""
    """The latest epoch; empty: none is known."""


class Witness(Protocol):
    """State outside of the events that a new epoch, or the check for a rollback, needs."""

    async def compiled(self) -> CompiledPosition:
        """Returns up to where events were compiled: a log that ends before it was rolled back.

        Raises `LogUnavailableError`.
        """
        ...

    async def carried_over(self, epoch: str, /) -> list[Draft]:
        """Returns the records of a new epoch that cannot be derived from Kubernetes. Raises `LogUnavailableError`."""
        ...


class NoWitness:
    """A `Witness` of a log without a compiler and without pins."""

    async def compiled(self) -> CompiledPosition:
        """Returns the position before the first event."""
        return CompiledPosition()

    async def carried_over(self, _epoch: str, /) -> list[Draft]:
        """Returns no record."""
        return []


class CommitWitness(NoWitness):
    """A `Witness` of the compiler's streams; it knows no pins."""

    def __init__(self, commits: EventLog, keyframes: EventLog, streams: Streams) -> None:
        self._commits = commits
        self._keyframes = keyframes
        self._streams = streams

    async def compiled(self) -> CompiledPosition:
        """Returns the position of the newest commit or keyframe, whichever is newer."""
        last = (
            await self._commits.last(self._streams.snapshot_subject),
            await self._keyframes.last(self._streams.keyframe_subject),
        )
        found = [record for record in last if record is not None]
        return CompiledPosition(
            max(map(chunked_payload.version_of, found), default=0), latest_of(*map(chunked_payload.epoch_of, found))
        )


class StreamWitness(CommitWitness):
    """A `Witness` of the compiler's streams and of one cluster's stream of pins."""

    def __init__(self, commits: EventLog, keyframes: EventLog, logs: Logs, streams: Streams, cluster: str) -> None:
        super().__init__(commits, keyframes, streams)
        self._logs = logs
        self._cluster = cluster

    @classmethod
    async def open(cls, logs: Logs, streams: Streams, cluster: str) -> StreamWitness:
        """Open the streams; creates the stream of pins if it is missing."""
        commits, keyframes = await logs.open(streams.snapshots), await logs.open(streams.keyframes)
        await logs.ensure(streams.pins)
        return cls(commits, keyframes, logs, streams, cluster)

    async def carried_over(self, epoch: str, /) -> list[Draft]:
        """Returns the pin in force."""
        return await carried_pins(self._logs, self._streams, self._cluster, epoch)
