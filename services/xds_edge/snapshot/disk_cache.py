"""The last good state on disk: everything that an edge needs to serve while all else is down.

It contains the snapshot, the token issuers and the roots, and no secret. It is one file, replaced atomically (written
beside, synced, renamed), with a checksum, readable by its owner alone. A damaged file counts as missing.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec

from shared.eventlog.protocol import EMPTY, Checkpoint
from shared.io.atomic_file import write_atomically
from shared.io.decoding import UndecodableError, decode_by
from shared.projected_objects import TokenIssuer
from shared.records.certificate_records import TrustBundle
from shared.records.snapshot import Commit

_log = logging.getLogger(__name__)

FORMAT = 1
_MAGIC = b"meshlog-edge-1\n"
_NAME = "last-good"


class LastGood(msgspec.Struct, frozen=True):
    """The state at the time of writing."""

    format: int
    checkpoint: Checkpoint = EMPTY
    """The place of the keyframe in the stream of commits."""
    keyframe: Commit | None = None
    issuers: dict[str, TokenIssuer] = {}
    """By cluster."""
    bundle: TrustBundle | None = None


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(LastGood)


def encode(state: LastGood) -> bytes:
    """The bytes of the file."""
    payload = _ENCODER.encode(state)
    return _MAGIC + hashlib.sha256(payload).digest() + payload


def write(directory: Path, content: bytes) -> None:
    """Replace the file atomically; raises `OSError`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(directory / _NAME, content)


def read(directory: Path) -> LastGood | None:
    """The state written last, or None if there is no valid file."""
    path = directory / _NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("the last good state cannot be read: %s", error)
        return None
    return decode(content, str(path))


def decode(content: bytes, where: str = "a file") -> LastGood | None:
    """The state in these bytes, or None if they are damaged or of another format."""
    body = content[len(_MAGIC) :]
    if not content.startswith(_MAGIC) or hashlib.sha256(body[32:]).digest() != body[:32]:
        _log.error("the last good state in %s is damaged; starting without it", where)
        return None
    try:
        state = decode_by(_DECODER, body[32:])
    except UndecodableError as error:
        _log.error("the last good state in %s cannot be understood: %s", where, error)
        return None
    return state if state.format == FORMAT else None
