"""Reads the past by version: commits, snapshots, objects. Reads as little of the log as the query needs.

Versions increase along the streams of commits and keyframes, so a version is found by bisection. A snapshot is the
newest keyframe at or before it and the commits since.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable

import msgspec

from cli.history.log_source import LogReader, LogSource
from cli.history.object_states import LostHistoryError, ObjectSelection, records_at
from cli.history.single_proxy_view import read_outline, single_proxy_snapshot
from shared.errors import BadInputError
from shared.eventlog.protocol import Record
from shared.records import chunked_payload, events
from shared.records.events import Event
from shared.records.pins import PIN_KIND, PINNED_KINDS, in_force_by
from shared.records.snapshot import Commit, Snapshot, SnapshotError, decode_commit


class LoggedEvent(msgspec.Struct, frozen=True):
    """An event with its position in the log."""

    sequence: int
    time: int
    """Time at which the log stored it, nanoseconds since 1970."""
    event: Event


class PublishedCommit(msgspec.Struct, frozen=True):
    """A commit with the time at which the log stored it."""

    time: int
    commit: Commit


class Timeline:
    """Queries of the past of one log."""

    def __init__(self, source: LogSource) -> None:
        self.source = source

    # Commits and snapshots

    async def head(self) -> int:
        """Return the newest version published. Raises `LostHistoryError` if there is none."""
        last = await self.source.snapshots.last(self.source.streams.snapshot_subject)
        if last is None:
            raise LostHistoryError("history/empty", "no version was ever published in this log")
        return chunked_payload.version_of(last)

    async def oldest(self) -> int:
        """Return the oldest version that can be rebuilt; 0 if there is none."""
        found: list[int] = []
        first, _ = await self.source.snapshots.bounds()
        record = await self.source.snapshots.at(first)
        async for _, payload in self._payloads(after=0, until=chunked_payload.version_of(record) if record else 0):
            outline = read_outline(payload)
            if outline.parent == 0:
                found.append(outline.version)
        async for record in self.source.keyframes.read():
            if record.batch[0] == 1:
                found.append(chunked_payload.version_of(record))
                break
        return min(found, default=0)

    async def newest_below(self, version: int) -> int:
        """Return the newest version below `version`. Raises `BadInputError` if the log keeps none."""
        before = await self.version_before(version)
        if not before:
            raise BadInputError("history/version", f"the log keeps no version before {version}")
        return before

    async def version_at(self, moment: int) -> int:
        """Return the version in force at a time, nanoseconds since 1970."""
        record = await _newest(self.source.snapshots, lambda record: record.time <= moment)
        if record is None:
            raise BadInputError("history/time", "nothing was published yet at that time, or it is no longer kept")
        return chunked_payload.version_of(record)

    async def version_in_force(self, sequence: int) -> int:
        """Return the newest version that holds no event after `sequence`."""
        record = await _newest(self.source.snapshots, lambda record: chunked_payload.version_of(record) <= sequence)
        if record is None:
            raise BadInputError("history/version", f"the log keeps no version as old as {sequence}")
        return chunked_payload.version_of(record)

    async def is_whole(self) -> bool:
        """Whether the log keeps the first commit that was ever published, or one that starts anew."""
        async with contextlib.aclosing(self._payloads(after=0, until=None)) as payloads:
            async for _, payload in payloads:
                return read_outline(payload).parent == 0
        return False

    async def version_before(self, sequence: int) -> int:
        """Return the newest version without the event at `sequence`; 0 if the log keeps none so old."""
        record = await _newest(self.source.snapshots, lambda record: chunked_payload.version_of(record) < sequence)
        return 0 if record is None else chunked_payload.version_of(record)

    async def commits(self, *, after: int = 0, until: int | None = None) -> AsyncGenerator[PublishedCommit]:
        """Yield the commits of versions above `after`, up to `until`, in order."""
        async for time, payload in self._payloads(after=after, until=until):
            yield PublishedCommit(time, decode_commit(payload))

    async def _payloads(self, *, after: int, until: int | None) -> AsyncGenerator[tuple[int, bytes]]:
        log, start = self.source.snapshots, await self.place_after(after)
        assembler = chunked_payload.Assembler()
        async with contextlib.aclosing(log.read(start=start, subjects=self.source.streams.snapshot_subject)) as records:
            async for record in records:
                if until is not None and chunked_payload.version_of(record) > until:
                    return
                try:
                    payload = assembler.feed(record)
                except chunked_payload.BlobError:
                    continue  # a corrupt commit is skipped: callers that need it detect the gap
                if payload is not None:
                    yield record.time, payload

    async def place_after(self, version: int) -> int:
        """Return the sequence in the stream of commits from which on all versions are later."""
        if not version:
            return 1
        before = await _newest(self.source.snapshots, lambda record: chunked_payload.version_of(record) <= version)
        return before.sequence + before.batch[1] - before.batch[0] + 1 if before is not None else 1

    async def commit(self, version: int) -> PublishedCommit:
        """Return the commit of exactly that version. Raises `BadInputError` if there is none."""
        async for found in self.commits(after=version - 1, until=version):
            if found.commit.version == version:
                return found
        raise BadInputError("history/version", f"{version} is no published version")

    async def snapshot(self, version: int) -> Snapshot:
        """Return the snapshot in force at a version. Raises `LostHistoryError` if the log no longer keeps it."""
        snapshot = await self._keyframe(version) or Snapshot()
        try:
            async for found in self.commits(after=snapshot.version, until=version):
                if found.commit.version > snapshot.version:
                    snapshot.apply(found.commit)
        except SnapshotError as error:
            raise LostHistoryError(
                "history/gap", f"version {version} cannot be rebuilt: {error.sentence}; a newer one may"
            ) from error
        if not snapshot.version:
            raise LostHistoryError("history/lost", f"the log keeps nothing that version {version} is rebuilt from")
        return snapshot

    async def single_proxy_snapshot(self, version: int, proxy: str) -> Snapshot:
        """Return the snapshot at a version with one proxy alone and the resources that it holds.

        Raises `LostHistoryError` if the log no longer keeps it.
        """
        whole = await self._keyframe_payload(version)
        outlines = [read_outline(whole)] if whole is not None else []
        async for _, payload in self._payloads(after=outlines[-1].version if outlines else 0, until=version):
            outline = read_outline(payload)
            if outline.parent == 0:
                outlines = [outline]
            elif outlines and outline.parent == outlines[-1].version:
                outlines.append(outline)
            elif outline.version > (outlines[-1].version if outlines else 0):
                raise LostHistoryError("history/gap", f"version {version} cannot be rebuilt: commits are missing")
        if not outlines:
            raise LostHistoryError("history/lost", f"the log keeps nothing that version {version} is rebuilt from")
        return single_proxy_snapshot(outlines, proxy)

    async def _keyframe(self, version: int) -> Snapshot | None:
        payload = await self._keyframe_payload(version)
        if payload is None:
            return None
        snapshot = Snapshot()
        snapshot.apply(decode_commit(payload))
        return snapshot

    async def _keyframe_payload(self, version: int) -> bytes | None:
        """Return the newest keyframe of at most this version; a corrupt one is skipped for the one before it."""
        log = self.source.keyframes
        while True:
            limit = version
            found = await _newest(log, lambda record, limit=limit: chunked_payload.version_of(record) <= limit)
            if found is None:
                return None
            try:
                return await self._blob_at(log, found)
            except chunked_payload.BlobError:
                version = chunked_payload.version_of(found) - 1

    async def _blob_at(self, log: LogReader, chunk: Record) -> bytes | None:
        """Return the blob that a chunk belongs to, or None if it is incomplete. Raises `BlobError`."""
        assembler = chunked_payload.Assembler()
        async with contextlib.aclosing(log.read(start=chunk.sequence - chunk.batch[0] + 1)) as records:
            async for record in records:
                payload = assembler.feed(record)
                if payload is not None or record.sequence > chunk.sequence:
                    return payload
        return None

    # Events and objects

    async def happened(self, sequence: int) -> LoggedEvent | None:
        """Return the event at exactly this sequence, or None if the log no longer keeps it or it cannot be decoded."""
        record = await self.source.events.at(sequence)
        return logged_event_in(record) if record is not None and record.sequence == sequence else None

    async def since(self, moment: int) -> int:
        """Return the first sequence of events that the log stored after a time, nanoseconds since 1970."""
        record = await _newest(self.source.events, lambda record: record.time <= moment)
        return record.sequence + 1 if record is not None else 1

    async def history(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        subjects: str = "",
        holds: Callable[[str], bool] = lambda _: True,
    ) -> AsyncGenerator[LoggedEvent]:
        """Yield the events above `after`, up to `until`, in order; events that cannot be decoded are skipped.

        With `holds`, only events whose subjects it accepts.
        """
        async with contextlib.aclosing(
            self.source.events.read(start=after + 1, subjects=subjects or self.source.scope)
        ) as records:
            async for record in records:
                if until is not None and record.sequence > until:
                    return
                found = logged_event_in(record) if holds(record.subject) else None
                if found is not None:
                    yield found

    async def state(self, version: int, part: ObjectSelection | None = None) -> list[LoggedEvent]:
        """Return the newest event of each object up to a version, deletions included, by sequence; of that epoch only.

        With `part`, only of the objects in it. Raises `LostHistoryError` if the log no longer keeps them.
        """
        return [item for item in map(logged_event_in, await records_at(self.source, version, part)) if item is not None]


def logged_event_in(record: Record) -> LoggedEvent | None:
    """Return the event in a record, or None if it cannot be decoded."""
    try:
        return LoggedEvent(record.sequence, record.time, events.read(record))
    except events.CorruptEventError:
        return None


async def _newest(log: LogReader, fits: Callable[[Record], bool]) -> Record | None:
    """Return the newest record that fits, or None; requires that all that fit come before all that do not."""
    low, high = await log.bounds()
    found: Record | None = None
    while low <= high:
        middle = (low + high) // 2
        record = await log.at(middle)
        if record is None or record.sequence > high or not fits(record):
            high = middle - 1
        else:
            found, low = record, record.sequence + 1
    return found


def living(state: Iterable[LoggedEvent]) -> dict[events.ObjectKey, LoggedEvent]:
    """Return the objects that exist in a state."""
    return {item.event.key: item for item in state if item.event.operation == events.APPLIED}


def in_force(state: Iterable[LoggedEvent]) -> dict[events.ObjectKey, LoggedEvent]:
    """Return the objects of a state that are in force: under a pin its policy, not the newest. The pin is left out."""
    found = living(state)
    pins = [key for key in found if key.kind == PIN_KIND]
    for key in pins:
        item = found.pop(key)
        try:
            pinned = in_force_by(item.event)
        except events.CorruptEventError:
            continue
        if pinned is None:
            continue
        found = {other: one for other, one in found.items() if other.kind not in PINNED_KINDS}
        found.update((event.key, LoggedEvent(sequence, item.time, event)) for sequence, event in pinned)
    return found
