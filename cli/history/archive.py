"""The file that a log is taken away in: one file, checksummed, read from any place in the middle.

    magic | block | block | … | table of contents | length of it | its SHA-256 | magic

A *block* is up to 500 records of one stream, MessagePack below zlib. The table of contents says for each block where
it is, which sequences it holds and its SHA-256, so that its own digest covers the whole file, and a reader
fetches one record without reading the rest. Between the blocks of events stand *state* blocks: the newest record of
each object at that place, so that a past state needs no replay from the beginning, and an export may begin in the
middle of history.

What is in the file: events, commits, keyframes, status, certificates (public parts). Signing requests stay out: they
hold tokens, sealed, but nobody needs them for history. Private keys are in no stream at all.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import BinaryIO

import msgspec

from shared.errors import BadInputError
from shared.eventlog.protocol import Record

MAGIC = b"meshlog-log/1\n"
BLOCK_RECORDS = 500
BLOCK_BYTES = 256 * 1024
STATE_EVERY = 20_000
"""Events between two states in the file: so many are read at most to know the objects at a version."""
NOUNS = ("events", "snapshots", "keyframes", "status", "certs")
"""Streams that a file holds; each is optional but the first."""

_LENGTH = 8
_DIGEST = 32
_TAIL = _LENGTH + _DIGEST + len(MAGIC)


class BrokenArchiveError(BadInputError):
    """The file is no export of a log, was cut short, or was changed."""


class Block(msgspec.Struct, frozen=True, array_like=True):
    """Where some records of one stream are."""

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
    """SHA-256 of the block as it stands in the file."""


class State(msgspec.Struct, frozen=True, array_like=True):
    """The newest record of each object after the event at `sequence`."""

    sequence: int
    blocks: list[Block]


class About(msgspec.Struct, frozen=True):
    """Whose log it is, and what one must be told to compile it again."""

    cluster: str
    prefix: str
    mesh_name: str
    namespace: str
    trust_domain: str
    service_domain: str
    build: str
    """Of the command that wrote the file."""
    exported: str
    """When, RFC 3339."""
    budgets: dict[str, int] = {}
    """Limits of objects and namespaces that differ from their defaults (`shared.policy.budgets`)."""


class Contents(msgspec.Struct, frozen=True):
    """The table of contents."""

    about: About
    streams: dict[str, list[Block]]
    states: list[State]


Item = tuple[str, int, int, dict[str, str], bytes]
"""A record in a block: subject, sequence, time, headers, payload."""

_ENCODER = msgspec.msgpack.Encoder()
_ITEMS = msgspec.msgpack.Decoder(list[Item])
_CONTENTS = msgspec.msgpack.Decoder(Contents)


class ArchiveWriter:
    """Writes one file, front to back."""

    def __init__(self, file: BinaryIO, about: About) -> None:
        self._file = file
        self._about = about
        self._at = file.write(MAGIC)
        self._streams: dict[str, list[Block]] = {}
        self._states: list[State] = []
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._noun = ""

    def add(self, noun: str, record: Record) -> None:
        """The next record of a stream; all of one stream come before the next stream begins."""
        if noun != self._noun:
            self._flush()
            self._noun = noun
            self._streams.setdefault(noun, [])
        self._pending.append(record)
        self._pending_bytes += len(record.payload)
        if len(self._pending) >= BLOCK_RECORDS or self._pending_bytes >= BLOCK_BYTES:
            self._flush()

    def add_state(self, sequence: int, records: list[Record]) -> None:
        """The newest record of each object after the event at `sequence`."""
        self._flush()
        ordered = sorted(records, key=lambda record: record.sequence)
        pieces = [ordered[start : start + BLOCK_RECORDS] for start in range(0, len(ordered), BLOCK_RECORDS)]
        self._states.append(State(sequence, [self._block(piece) for piece in pieces]))

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


def read_contents(file: BinaryIO, path: str) -> Contents:
    """The table of contents; raises `BrokenArchiveError` for a file that is no export or was cut short or changed."""
    size = file.seek(0, 2)
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
    file.seek(size - _TAIL - length)
    body = file.read(length)
    if hashlib.sha256(body).digest() != tail[_LENGTH : _LENGTH + _DIGEST]:
        raise BrokenArchiveError("archive/digest", "was changed: its table of contents has another digest", about=path)
    try:
        return _CONTENTS.decode(body)
    except msgspec.MsgspecError as error:
        raise BrokenArchiveError("archive/contents", f"cannot be read ({error})", about=path) from error


def read_block(file: BinaryIO, block: Block, path: str) -> list[Item]:
    """The records of a block; raises `BrokenArchiveError` if a byte of it was changed."""
    file.seek(block.offset)
    body = file.read(block.length)
    if hashlib.sha256(body).digest() != block.digest:
        raise BrokenArchiveError(
            "archive/digest", f"was changed: records {block.first} to {block.last} have another digest", about=path
        )
    return _ITEMS.decode(zlib.decompress(body))


def record_of(item: Item, pending: int = 0) -> Record:
    """An item of a block as the log gives it."""
    subject, sequence, time, headers, payload = item
    return Record(subject=subject, sequence=sequence, payload=payload, time=time, headers=headers, pending=pending)
