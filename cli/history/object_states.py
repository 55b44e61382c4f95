"""Which objects there were at a version: the newest record of each, of the epoch that was in force.

A file holds whole states now and then, so that little of it is read. A live log gives the newest state at once; a
past one is read from the beginning of the log, only the subjects that matter.

An event that the log has forgotten would be an object missing from the answer, which might be the one that decided. So
a state is told only where all that lived then is known to be in the log, and refused otherwise.
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
    """The log does not keep what the question needs."""


class ObjectSelection(msgspec.Struct, frozen=True):
    """Some of the objects: those of these namespaces, those of these kinds wherever they are, and single ones."""

    namespaces: frozenset[str] = frozenset()
    """Empty string: of the objects in no namespace."""
    kinds: frozenset[str] = frozenset()
    subjects: frozenset[str] = frozenset()
    """Single objects, by where they stand in the log."""

    def scopes(self, source: LogSource) -> list[str]:
        """Patterns that cover it; one object may be in several."""
        streams, cluster = source.streams, source.about.cluster
        return [
            *(streams.namespace_scope(cluster, name) for name in sorted(self.namespaces)),
            *(streams.kind_scope(cluster, kind) for kind in sorted(self.kinds)),
            *sorted(self.subjects),
        ]

    def holds(self, source: LogSource) -> Callable[[str], bool]:
        """Whether a subject is in it."""
        start = len(source.scope) - 1
        namespaces, kinds = set(map(escape, self.namespaces)), set(map(escape, self.kinds))

        def covers(subject: str) -> bool:
            kind, namespace = [*subject[start:].split(".", 2), ""][:2]
            return namespace in namespaces or kind in kinds or subject in self.subjects

        return covers


async def records_at(source: LogSource, version: int, part: ObjectSelection | None = None) -> list[Record]:
    """The newest record of each object up to a version, by sequence, of the epoch in force then.

    Raises `LostHistoryError` if the log has forgotten a part of them.
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
    """Sequence of the cluster's newest event; 0 if there is none."""
    record = await source.events.last(source.scope)
    return record.sequence if record is not None else 0


def _counts(record: Record) -> bool:
    """Whether what a record says counts: a pin that cannot be put in force leaves the one before it there."""
    return not record.subject.endswith(SUBJECT_END) or not record_rules.event(record)


async def complete_from(source: LogSource) -> int:
    """The first sequence from which on states are complete.

    Before a log forgets, the ingestor says again what lives and would be forgotten: from there on all is known, as it
    is from the beginning of an epoch. If neither is in the log, only its end is known to be complete.
    """
    first, _ = await source.events.bounds()
    last = await newest_event(source)
    if source.archive is not None and source.archive.state_items(until=first)[0]:
        return first
    begins = await source.events.at(first)
    if begins is None or begins_epoch(begins):
        return first
    if first not in source.remembered:
        known = await _said_again(source, first) or await _searched(source, begins)
        if not known:
            return last if source.archive is None else last + 1
        source.remembered[first] = known
    return source.remembered[first]


async def _said_again(source: LogSource, first: int) -> int:
    """Where the newest of what was said again before the last trim ends, by what still is the newest of an object.

    It is said in one go, so the rest of it follows at once. 0 if all of it has changed since, or the epoch.
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


async def _searched(source: LogSource, begins: Record) -> int:
    """The same by reading all of the log: also where an epoch begins. 0: neither is there."""
    known = 0
    async for record in source.events.read(start=begins.sequence, subjects=source.scope):
        if record.epoch != begins.epoch:
            return known or record.sequence
        if mark := mark_of(record):
            known = record.sequence if mark >= begins.sequence else 0
        elif _keeps(record, begins.sequence):
            known = record.sequence
    return known


def _keeps(record: Record, first: int) -> bool:
    """Whether a record was said again for a trim, of which the mark behind it says how far it went."""
    kept = record.headers.get(HEADER_KEPT, "")
    return kept.isdecimal() and int(kept) < first


def begins_epoch(record: Record) -> bool:
    """Whether nothing of its epoch came before a record."""
    # A log without chains was never written by a mesh: nothing can be missing from it that we could know of.
    return record.headers.get(HEADER_CHAIN, GENESIS) == GENESIS


async def _check_kept(source: LogSource, version: int) -> None:
    first, _ = await source.events.bounds()
    last = await newest_event(source)
    begins = await source.events.at(first)
    if version >= last or (version >= first and begins is not None and begins_epoch(begins)):
        return
    known = await complete_from(source)
    if version < known:
        raise LostHistoryError(
            "history/forgotten",
            f"the log has forgotten what came before event {first}: the objects of version {version} are not all "
            f"known, those from version {known} on are; what proxies were told is: meshlog show, meshlog diff",
        )


async def _epoch_at(source: LogSource, version: int) -> str:
    """The epoch of the cluster's newest event up to a version; empty if there is none."""
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
    """The newest record of each subject, from the state in the file that is nearest before, and the epoch in force."""
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
