"""Reads the streams of an exported file through the interface of a live log."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import BinaryIO

from cli.history.archive import Block, Contents, Item, read_block, read_contents, record_of
from shared.errors import BadInputError
from shared.eventlog.foreign import ForeignFilter, ForeignRecords
from shared.eventlog.own_records import OwnRecords
from shared.eventlog.protocol import Record
from shared.eventlog.stream_spec import covering
from shared.records.subjects import Streams
from shared.streams.specs import specs

_BLOCKS_KEPT = 16
_BYTES_KEPT = 32 * 1024 * 1024
EVERYTHING = ">"


class Archive:
    """An open exported file, with a cache of the blocks that were read last."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = _opened(path)
        self.path = path
        try:
            self.contents: Contents = read_contents(self._file, str(path))
        except BaseException:
            self._file.close()
            raise
        self._kept: OrderedDict[int, tuple[list[Item], int]] = OrderedDict()
        """Cached blocks, each with the bytes of its payloads."""
        self._kept_bytes = 0
        self.foreign = ForeignRecords()
        """Records that are skipped: files of older builds hold them."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def items(self, block: Block) -> list[Item]:
        """Return the records of a block."""
        if block.offset in self._kept:
            self._kept.move_to_end(block.offset)
            return self._kept[block.offset][0]
        items = read_block(self._file, block, str(self.path))
        size = sum(len(item[4]) for item in items)
        self._kept[block.offset] = (items, size)
        self._kept_bytes += size
        while len(self._kept) > 1 and (len(self._kept) > _BLOCKS_KEPT or self._kept_bytes > _BYTES_KEPT):
            _, (_, gone) = self._kept.popitem(last=False)
            self._kept_bytes -= gone
        return items

    def check(self) -> int:
        """Read every block and check its digest. Returns the number of records."""
        states = [block for state in self.contents.states for block in state.blocks]
        for block in (*(block for blocks in self.contents.streams.values() for block in blocks), *states):
            read_block(self._file, block, str(self.path))
        return sum(block.count for blocks in self.contents.streams.values() for block in blocks)

    def stream(self, noun: str) -> FileLog:
        """Return one stream of the file; empty if the file does not hold it."""
        return FileLog(self, noun, self.contents.streams.get(noun, []))

    def state(self, *, until: int) -> tuple[int, list[Record]]:
        """Return the newest state at or before an event, and the sequence of its event; (0, []) if there is none."""
        reached, items = self.state_items(until=until)
        return reached, [record_of(item) for item in items.values()]

    def state_items(self, *, until: int) -> tuple[int, dict[str, Item]]:
        """Return the same state as the items of the file, by subject."""
        found = [state for state in self.contents.states if state.sequence <= until]
        if not found:
            return 0, {}
        return found[-1].sequence, {item[0]: item for block in found[-1].blocks for item in self.items(block)}


def _opened(path: Path) -> BinaryIO:
    """Open the file. Raises `BadInputError` if there is none or it cannot be read."""
    try:
        # Opening a pipe would block until another process writes to it.
        if path.exists() and not path.is_file():
            raise BadInputError("archive/unreadable", "is no file", about=str(path))
        return path.open("rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInputError("archive/unreadable", f"cannot be read: {reason}", about=str(path)) from error


class FileLog:
    """One stream of an exported file; implements `cli.history.log_source.LogReader`."""

    def __init__(self, archive: Archive, name: str, blocks: list[Block]) -> None:
        self.archive = archive
        self.name = name
        self._blocks = blocks
        self._lasts = [block.last for block in blocks]
        streams = Streams(prefix=archive.contents.about.prefix)
        spec = specs(streams)[getattr(streams, name)]
        self._filter = ForeignFilter(spec, archive.foreign)
        self._own = OwnRecords(self._filter, self._span, self._first)

    async def bounds(self) -> tuple[int, int]:
        """Return the first and last sequence; (1, 0) if the stream is empty."""
        return (self._blocks[0].first, self._blocks[-1].last) if self._blocks else (1, 0)

    async def read(self, *, start: int = 1, subjects: str = EVERYTHING) -> AsyncGenerator[Record]:
        """Yield the records from `start` on."""
        covers, reading = covering([subjects]), self._own.read_filter(subjects)
        for item in self._items(start):
            if covers(item[0]) and await reading.is_own(record := record_of(item)):
                yield record

    async def follow(self, *, start: int = 1, subjects: str = EVERYTHING) -> AsyncGenerator[Record]:
        """Yield the same as `read`: a file does not grow."""
        async for record in self.read(start=start, subjects=subjects):
            yield record

    async def at(self, sequence: int) -> Record | None:
        """Return the first record at or after a sequence, or None if there is none."""
        for item in self._items(sequence):
            if await self._own.is_own(record := record_of(item), content=False):
                return record
        return None

    async def last(self, subject: str) -> Record | None:
        """Return the newest record of a subject or wildcard, or None if there is none."""
        covers = covering([subject])
        for block in reversed(self._blocks):
            for item in reversed(self.archive.items(block)):
                if covers(item[0]):
                    return await self._own.newest(record_of(item), subject, content=True)
        return None

    async def last_per_subject(self, subjects: str = EVERYTHING) -> list[Record]:
        """Return the newest record of each subject that matches, by sequence."""
        covers = covering([subjects])
        newest = {item[0]: item for item in self._items(1) if covers(item[0])}
        found = {subject: record_of(item) for subject, item in newest.items()}
        own = await self._own.newest_of_each(found, subjects)
        return sorted(own.values(), key=lambda record: record.sequence)

    def items(self, start: int = 1) -> Iterator[Item]:
        """Yield the items from `start` on, for callers that read all of them; foreign records are skipped."""
        for item in self._items(start):
            record = record_of(item)
            if not self._filter.why_foreign(record) and not (
                self._filter.is_guest(record) and self._filter.why_void(record)
            ):
                yield item

    def _items(self, start: int) -> Iterator[Item]:
        for block in self._blocks[bisect.bisect_left(self._lasts, start) :]:
            for item in self.archive.items(block):
                if item[1] >= start:
                    yield item

    async def _span(self, low: int, high: int, subjects: str) -> list[Record]:
        covers = covering([subjects])
        found: list[Record] = []
        for item in self._items(low):
            if item[1] > high:
                break
            if covers(item[0]):
                found.append(record_of(item))
        return found

    async def _first(self) -> int:
        return (await self.bounds())[0]
