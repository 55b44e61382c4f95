"""Writes a log, or a range of its events, to one file (`meshlog export`)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cli.history.archive import NOUNS, STATE_EVERY, ArchiveWriter
from cli.history.log_source import LogReader, LogSource
from cli.history.object_states import complete_from
from shared.build import VERSION
from shared.errors import BadInputError
from shared.eventlog.protocol import Record
from shared.io.atomic_file import replacing
from shared.records import chunked_payload


class Exported(msgspec.Struct, frozen=True):
    """Summary of an exported file."""

    path: str
    bytes: int
    records: dict[str, int]
    """Number of records, by stream."""
    first: int
    """Sequence of the first event; `last` is that of the last."""
    last: int


async def export(
    source: LogSource, path: Path, *, first: int = 1, last: int | None = None, state_every: int = STATE_EVERY
) -> Exported:
    """Write the events from `first` to `last` and the records that they need. The file appears when it is complete.

    An export that begins in the middle of the log starts with the state at that event, so that it can be compiled.
    """
    _, end = await source.events.bounds()
    last = end if last is None else min(last, end)
    ends = {noun: (await source.stream(noun).bounds())[1] for noun in NOUNS}
    _refuse_what_is_no_file(path)
    records: dict[str, int] = {}
    try:
        with replacing(path, mode=0o666, sync="file") as file:
            about = msgspec.structs.replace(
                source.about, build=VERSION, exported=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            )
            writer = ArchiveWriter(file, about)
            records["events"] = await _events(source, writer, first, last, state_every)
            for noun in NOUNS[1:]:
                records[noun] = await _others(source.stream(noun), noun, writer, until=ends[noun], last=last)
            writer.finish()
            size = file.tell()
    except OSError as error:
        raise BadInputError("export/unwritable", f"cannot be written: {error.strerror}", about=str(path)) from error
    return Exported(path=str(path), bytes=size, records=records, first=first, last=last)


def _refuse_what_is_no_file(path: Path) -> None:
    """Refuse a folder, a device or a pipe: the complete file replaces what is at `path`."""
    try:
        wrong = not path.name or (path.exists() and not path.is_file())
    except (OSError, ValueError) as error:
        raise BadInputError("export/unwritable", f"cannot be written: {error}", about=str(path)) from error
    if wrong:
        raise BadInputError("export/unwritable", "is no file: name one that is to be written", about=str(path))


async def _events(source: LogSource, writer: ArchiveWriter, first: int, last: int, state_every: int) -> int:
    newest: dict[str, Record] = {}
    if source.archive is not None:
        oldest, _ = await source.events.bounds()
        newest = {record.subject: record for record in source.archive.state(until=oldest - 1)[1]}
    # A state without the records that the log has trimmed would be incomplete: write none.
    whole_from = await complete_from(source)
    count, due = 0, 0
    async for record in source.events.read(start=1, subjects=source.scope):
        if record.sequence > last:
            break
        whole = record.sequence > whole_from
        if record.sequence >= first:
            if not count and newest and whole:
                writer.add_state(record.sequence - 1, list(newest.values()))
            writer.add("events", record)
            count, due = count + 1, due + 1
        newest[record.subject] = record
        if due >= state_every and whole:
            writer.add_state(record.sequence, list(newest.values()))
            due = 0
    return count


async def _others(log: LogReader, noun: str, writer: ArchiveWriter, *, until: int, last: int) -> int:
    """Write another stream up to the versions that the events reach, with all earlier records."""
    count = 0
    async for record in log.read():
        if record.sequence > until:
            break
        if noun in {"snapshots", "keyframes"} and chunked_payload.version_of(record) > last:
            continue
        writer.add(noun, record)
        count += 1
    return count
