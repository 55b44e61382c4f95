"""The format of an exported log: one file, checksummed, with random access.

    magic | block | block | … | table of contents | length of it | its SHA-256 | magic

A *block* holds up to 500 records of one stream, as MessagePack compressed by zlib. For each block the table of contents
holds its offset, its sequences and its SHA-256. So the digest of the table covers the whole file, and a reader fetches
one record without reading the rest. Between the blocks of events stand *state* blocks: the newest record of each
object at that position. So a past state needs no replay from the beginning, and an export may begin in the middle of
history.

The file holds events, commits, keyframes, status, certificates (public parts). Signing requests are left out: they
hold sealed tokens and no query of history reads them. Private keys are in no stream.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from typing import Annotated, BinaryIO

import msgspec
from msgspec import Meta

from shared.errors import BadInputError
from shared.eventlog.protocol import Record
from shared.io.decoding import UndecodableError, decode_by

MAGIC = b"meshlog-log/1\n"
BLOCK_RECORDS = 500
BLOCK_BYTES = 256 * 1024
STATE_EVERY = 20_000
"""Events between two states in the file: at most this many are read to rebuild the objects at a version."""
MOST_BLOCK_BYTES = 32 * 1024 * 1024
"""Limit of a decompressed block in bytes. The writer closes a block at the first record beyond `BLOCK_BYTES`."""
MOST_CONTENTS_BYTES = 16 * 1024 * 1024
"""Limit of the table of contents in bytes: enough for 50 GB of log."""
MOST_HEADERS = 64
"""Limit of the headers of one record."""
NOUNS = ("events", "snapshots", "keyframes", "status", "certs")
"""Streams that a file holds; each except the first is optional."""

_LENGTH = 8
_DIGEST = 32
_MOST_SEQUENCE = 2**63
_TAIL = _LENGTH + _DIGEST + len(MAGIC)


class BrokenArchiveError(BadInputError):
    """The file is not an export of a log, is truncated, or was modified."""


class Block(msgspec.Struct, frozen=True, array_like=True):
    """The position of a block: some records of one stream."""

    offset: int
    length: int
    first: int
    """Sequence of the first record."""
    last: int
    count: int
    raw: int
    """Bytes of the records' payloads."""
    first_time: int
    digest: bytes
    """SHA-256 of the compressed block."""


class ArchiveState(msgspec.Struct, frozen=True, array_like=True):
    """The newest record of each object after the event at `sequence`."""

    sequence: int
    blocks: list[Block]


class About(msgspec.Struct, frozen=True):
    """The mesh that the log is of, and the settings that its compiler needs to compile it again."""

    cluster: str
    prefix: str
    mesh_name: str
    namespace: str
    trust_domain: str
    service_domain: str
    build: str
    """Build of the command that wrote the file."""
    exported: str
    """Time of the export, RFC 3339."""
    budgets: dict[str, int] = {}
    """Limits of objects and namespaces that differ from their defaults (`shared.policy.budgets`)."""


class Contents(msgspec.Struct, frozen=True):
    """The table of contents."""

    about: About
    streams: dict[str, list[Block]]
    states: list[ArchiveState]


Item = tuple[str, int, int, dict[str, str], bytes]
"""A record in a block: subject, sequence, time, headers, payload."""

_ENCODER = msgspec.msgpack.Encoder()
_BoundedItem = tuple[str, int, int, Annotated[dict[str, str], Meta(max_length=MOST_HEADERS)], bytes]
_ITEMS = msgspec.msgpack.Decoder(Annotated[list[_BoundedItem], Meta(max_length=BLOCK_RECORDS)])
"""Lengths are checked before anything is allocated: a few bytes can declare billions of items."""
_CONTENTS = msgspec.msgpack.Decoder(Contents)


class ArchiveWriter:
    """Writes one file sequentially."""

    def __init__(self, file: BinaryIO, about: About) -> None:
        self._file = file
        self._about = about
        self._at = file.write(MAGIC)
        self._streams: dict[str, list[Block]] = {}
        self._states: list[ArchiveState] = []
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._noun = ""

    def add(self, noun: str, record: Record) -> None:
        """Add the next record of a stream. All records of a stream are added before those of the next."""
        if noun != self._noun:
            self._flush()
            self._noun = noun
            self._streams.setdefault(noun, [])
        self._pending.append(record)
        self._pending_bytes += len(record.payload)
        if len(self._pending) >= BLOCK_RECORDS or self._pending_bytes >= BLOCK_BYTES:
            self._flush()

    def add_state(self, sequence: int, records: list[Record]) -> None:
        """Add the newest record of each object after the event at `sequence`."""
        self._flush()
        ordered = sorted(records, key=lambda record: record.sequence)
        self._states.append(ArchiveState(sequence, [self._block(piece) for piece in _pieces(ordered)]))

    def finish(self) -> None:
        """Write the table of contents."""
        self._flush()
        contents = _ENCODER.encode(Contents(about=self._about, streams=self._streams, states=self._states))
        self._file.write(contents)
        self._file.write(len(contents).to_bytes(_LENGTH, "big"))
        self._file.write(hashlib.sha256(contents).digest())
        self._file.write(MAGIC)

    def _flush(self) -> None:
        if self._pending:
            self._streams[self._noun].append(self._block(self._pending))
            self._pending, self._pending_bytes = [], 0

    def _block(self, records: list[Record]) -> Block:
        items: list[Item] = [(r.subject, r.sequence, r.time, dict(r.headers), r.payload) for r in records]
        body = zlib.compress(_ENCODER.encode(items), 1)
        block = Block(
            offset=self._at,
            length=len(body),
            first=records[0].sequence,
            last=records[-1].sequence,
            count=len(records),
            raw=sum(len(record.payload) for record in records),
            first_time=records[0].time,
            digest=hashlib.sha256(body).digest(),
        )
        self._at += self._file.write(body)
        return block


def _pieces(records: list[Record]) -> Iterator[list[Record]]:
    piece: list[Record] = []
    size = 0
    for record in records:
        piece.append(record)
        size += len(record.payload)
        if len(piece) >= BLOCK_RECORDS or size >= BLOCK_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def read_contents(file: BinaryIO, path: str) -> Contents:
    """Return the table of contents. Raises `BrokenArchiveError` if the file is no export, truncated or modified."""
    try:
        size = file.seek(0, 2)
    except OSError as error:
        sentence = "is read from its end, so it must be a file, not a pipe"
        raise BrokenArchiveError("archive/pipe", sentence, about=path) from error
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise BrokenArchiveError("archive/magic", "is no export of a log (`meshlog export` makes one)", about=path)
    if size < len(MAGIC) + _TAIL:
        raise BrokenArchiveError("archive/short", "was cut short: export it again", about=path)
    file.seek(size - _TAIL)
    tail = file.read(_TAIL)
    length = int.from_bytes(tail[:_LENGTH], "big")
    if tail[-len(MAGIC) :] != MAGIC or length > size - _TAIL - len(MAGIC):
        raise BrokenArchiveError("archive/short", "was cut short: export it again", about=path)
    if length > MOST_CONTENTS_BYTES:
        sentence = f"has a table of contents of {length / 1e6:.0f} MB, which no export has"
        raise BrokenArchiveError("archive/contents", sentence, about=path)
    file.seek(size - _TAIL - length)
    body = file.read(length)
    if hashlib.sha256(body).digest() != tail[_LENGTH : _LENGTH + _DIGEST]:
        raise BrokenArchiveError("archive/digest", "was changed: its table of contents has another digest", about=path)
    try:
        contents = decode_by(_CONTENTS, body)
    except UndecodableError as error:
        raise BrokenArchiveError("archive/contents", f"cannot be read ({error})", about=path) from error
    _check(contents, size, path)
    return contents


def _check(contents: Contents, size: int, path: str) -> None:
    """Check that every block is inside the file and that the blocks of a stream are contiguous: readers rely on it."""
    lists = [*contents.streams.items(), *(("state", state.blocks) for state in contents.states)]
    for noun, blocks in lists:
        before = 0
        for block in blocks:
            inside = len(MAGIC) <= block.offset and 0 <= block.length <= size - block.offset
            ordered = before <= block.first <= block.last if noun == "state" else before < block.first <= block.last
            if not inside or not ordered or not 0 < block.count <= BLOCK_RECORDS or block.last >= _MOST_SEQUENCE:
                sentence = f"names a block of {noun} that cannot be (records {block.first} to {block.last})"
                raise BrokenArchiveError("archive/contents", sentence, about=path)
            before = block.last
    reached = 0
    for state in contents.states:
        if not reached <= state.sequence < _MOST_SEQUENCE:
            raise BrokenArchiveError("archive/contents", "names its states out of order", about=path)
        reached = state.sequence


def read_block(file: BinaryIO, block: Block, path: str) -> list[Item]:
    """Return the records of a block. Raises `BrokenArchiveError` if its digest differs."""
    file.seek(block.offset)
    body = file.read(block.length)
    if hashlib.sha256(body).digest() != block.digest:
        raise BrokenArchiveError(
            "archive/digest", f"was changed: records {block.first} to {block.last} have another digest", about=path
        )
    try:
        items = decode_by(_ITEMS, _decompressed(body))
    except (zlib.error, UndecodableError) as error:
        sentence = f"records {block.first} to {block.last} cannot be read ({error})"
        raise BrokenArchiveError("archive/block", sentence, about=path) from error
    sequences = [item[1] for item in items]
    if sequences != sorted(sequences) or not sequences or (sequences[0], sequences[-1]) != (block.first, block.last):
        sentence = f"records {block.first} to {block.last} are others than its table of contents says"
        raise BrokenArchiveError("archive/block", sentence, about=path)
    return items


def _decompressed(body: bytes) -> bytes:
    """Decompress a block. Raises `zlib.error` if it is no zlib stream, is truncated, or exceeds the limit."""
    inflate = zlib.decompressobj()
    content = inflate.decompress(body, MOST_BLOCK_BYTES)
    if inflate.unconsumed_tail:
        raise zlib.error(f"holds more than {MOST_BLOCK_BYTES >> 20} MiB")
    if not inflate.eof:
        raise zlib.error("ends in the middle")
    return content


def record_of(item: Item, pending: int = 0) -> Record:
    """Convert an item of a block into a record as the log returns it."""
    subject, sequence, time, headers, payload = item
    return Record(subject=subject, sequence=sequence, payload=payload, time=time, headers=headers, pending=pending)
