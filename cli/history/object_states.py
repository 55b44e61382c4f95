"""Reads the objects at a version: the newest record of each, of the epoch that was in force.

A file holds complete states at intervals, so that only a part of it is read. A live log returns the newest state
directly; a past state is read from the beginning of the log, filtered by subject.

An event that the log has trimmed would be an object missing from the answer, and it might be the one that decides. So
a state is returned only if the log holds a record of every object that existed at that version; otherwise the query is
refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable

import msgspec

from cli.history.archive import Item, record_of
from cli.history.archive_stream import Archive, FileLog
from cli.history.log_source import LogSource
from shared.errors import MeshlogError
from shared.eventlog.protocol import GENESIS, HEADER_CHAIN, HEADER_EPOCH, HEADER_KEPT, Record
from shared.eventlog.stream_spec import matches
from shared.eventlog.trim_marker import mark_of
from shared.records.pins import SUBJECT_END
from shared.records.subjects import escape
from shared.streams import record_rules


class LostHistoryError(MeshlogError):
    """The log no longer keeps the records that the query needs."""


class ObjectSelection(msgspec.Struct, frozen=True):
    """A selection of objects: those of some namespaces, those of some kinds in any namespace, and single ones."""

    namespaces: frozenset[str] = frozenset()
    """Namespaces; the empty string selects objects without a namespace."""
    kinds: frozenset[str] = frozenset()
    subjects: frozenset[str] = frozenset()
    """Subjects of single objects in the log."""

    def scopes(self, source: LogSource) -> list[str]:
        """Return the subject patterns of the selection; one object may match several."""
        streams, cluster = source.streams, source.about.cluster
        return [
            *(streams.namespace_scope(cluster, name) for name in sorted(self.namespaces)),
            *(streams.kind_scope(cluster, kind) for kind in sorted(self.kinds)),
            *sorted(self.subjects),
        ]

    def holds(self, source: LogSource) -> Callable[[str], bool]:
        """Return a predicate: whether a subject is in the selection."""
        start = len(source.scope) - 1
        namespaces, kinds = set(map(escape, self.namespaces)), set(map(escape, self.kinds))

        def covers(subject: str) -> bool:
            kind, namespace = [*subject[start:].split(".", 2), ""][:2]
            return namespace in namespaces or kind in kinds or subject in self.subjects

        return covers


async def records_at(source: LogSource, version: int, part: ObjectSelection | None = None) -> list[Record]:
    """Return the newest record of each object up to a version, by sequence, of the epoch in force then.

    Raises `LostHistoryError` if the log has trimmed a part of them.
    """
    if source.archive is not None:
        if not source.archive.state_items(until=version)[0]:
            await _check_kept(source, version)
        items, epoch = _in_file(source, source.archive, version)
        if part is not None:
            holds = part.holds(source)
            items = {subject: item for subject, item in items.items() if holds(subject)}
        chosen = (item for item in items.values() if item[3].get(HEADER_EPOCH, "") == epoch)
        return [record_of(item) for item in sorted(chosen, key=lambda item: item[1])]
    epoch = await _epoch_at(source, version)
    await _check_kept(source, version)
    newest: dict[str, Record] = {}
    end = await newest_event(source)
    for scope in [source.scope] if part is None else part.scopes(source):
        if version >= end:
            newest.update((record.subject, record) for record in await source.events.last_per_subject(scope))
        else:
            async for record in _until(source.events.read(subjects=scope), version):
                if _counts(record):
                    newest[record.subject] = record
    return sorted((one for one in newest.values() if one.epoch == epoch), key=lambda record: record.sequence)


async def newest_event(source: LogSource) -> int:
    """Return the sequence of the cluster's newest event; 0 if there is none."""
    record = await source.events.last(source.scope)
    return record.sequence if record is not None else 0


def _counts(record: Record) -> bool:
    """Whether a record is in force: a pin that cannot be put in force leaves the previous pin in force."""
    return not record.subject.endswith(SUBJECT_END) or not record_rules.event(record)


async def complete_from(source: LogSource) -> int:
    """Return the first sequence from which on states are complete.

    Before a trim the ingestor appends again every live object whose record would be removed. From there on states are
    complete, as they are from the beginning of an epoch. If the log holds neither, only its end is complete.
    """
    first, _ = await source.events.bounds()
    last = await newest_event(source)
    if source.archive is not None and source.archive.state_items(until=first)[0]:
        return first
    oldest = await source.events.at(first)
    if oldest is None or begins_epoch(oldest):
        return first
    if first not in source.remembered:
        known = await _said_again(source, first) or await _searched(source, oldest)
        if not known:
            return last if source.archive is None else last + 1
        source.remembered[first] = known
    return source.remembered[first]


async def _said_again(source: LogSource, first: int) -> int:
    """Return the last sequence of what was appended again for the last trim, found by the newest record per object.

    These records are contiguous. Returns 0 if all of these objects have changed since, or the epoch has.
    """
    newest = await source.events.last_per_subject(source.scope)
    found = max((record.sequence for record in newest if _keeps(record, first)), default=0)
    if found:
        async for record in source.events.read(start=found, subjects=source.scope):
            if mark := mark_of(record):
                return record.sequence if mark >= first else 0
            if not _keeps(record, first):
                break
            found = record.sequence
    return found


async def _searched(source: LogSource, oldest: Record) -> int:
    """Search the same in all of the log, and the beginning of an epoch too. Returns 0 if it holds neither."""
    known = 0
    async for record in source.events.read(start=oldest.sequence, subjects=source.scope):
        if record.epoch != oldest.epoch:
            return known or record.sequence
        if mark := mark_of(record):
            known = record.sequence if mark >= oldest.sequence else 0
        elif _keeps(record, oldest.sequence):
            known = record.sequence
    return known


def _keeps(record: Record, first: int) -> bool:
    """Whether a record was appended again for a trim; the mark after these records holds the extent of the trim."""
    kept = record.headers.get(HEADER_KEPT, "")
    return kept.isdecimal() and int(kept) < first


def begins_epoch(record: Record) -> bool:
    """Whether a record is the first of its epoch."""
    # A log without chains was not written by a mesh: a missing record in it cannot be detected.
    return record.headers.get(HEADER_CHAIN, GENESIS) == GENESIS


async def _check_kept(source: LogSource, version: int) -> None:
    first, _ = await source.events.bounds()
    last = await newest_event(source)
    oldest = await source.events.at(first)
    if version >= last or (version >= first and oldest is not None and begins_epoch(oldest)):
        return
    known = await complete_from(source)
    if version < known:
        raise LostHistoryError(
            "history/forgotten",
            f"the log has forgotten what came before event {first}: the objects of version {version} are not all "
            f"known, those from version {known} on are; what proxies were told is: meshlog show, meshlog diff",
        )


async def _epoch_at(source: LogSource, version: int) -> str:
    """Return the epoch of the cluster's newest event up to a version; empty if there is none."""
    first, _ = await source.events.bounds()
    if version >= await newest_event(source):
        newest = await source.events.last(source.scope)
        return newest.epoch if newest is not None else ""
    # Other clusters may share the stream.
    for place in range(version, first - 1, -1):
        record = await source.events.at(place)
        if record is not None and record.sequence == place and matches(source.scope, record.subject):
            return record.epoch
    return ""


def _in_file(source: LogSource, archive: Archive, version: int) -> tuple[dict[str, Item], str]:
    """Return the newest record of each subject, from the nearest earlier state in the file, and the epoch in force."""
    log = source.events
    assert isinstance(log, FileLog)
    reached, newest = archive.state_items(until=version)
    last = max(newest.values(), key=lambda item: item[1]) if newest else None
    for item in log.items(reached + 1):
        if item[1] > version:
            break
        newest[item[0]] = last = item
    if last is None:
        raise LostHistoryError("history/forgotten", f"the file holds no event as old as {version}")
    return newest, last[3].get(HEADER_EPOCH, "")


async def _until(records: AsyncGenerator[Record], last: int) -> AsyncGenerator[Record]:
    async with contextlib.aclosing(records) as opened:
        async for record in opened:
            if record.sequence > last:
                return
            yield record
