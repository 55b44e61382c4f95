"""Reads files that people name, with limits: the wrong one is a sentence, never a full memory or a wait without end.

A name may lead to a folder, a device that never ends, a pipe to which nothing is written, or the wrong file of 40 GB.
"""

from __future__ import annotations

import os
import select
import stat
import time
from collections.abc import Mapping
from pathlib import Path

from shared.errors import BadInputError

FILE_MB = 32
"""Megabytes of a file that are read by default; `$MESHLOG_FILE_MB` changes it."""
FILE_MB_VARIABLE = "MESHLOG_FILE_MB"
SILENT_SECONDS = 30.0
"""How long a pipe may give nothing."""
_PIECE = 1 << 20


def most_bytes(environ: Mapping[str, str] = os.environ) -> int:
    """The limit in force; raises `BadInputError` for a setting that is no number."""
    given = environ.get(FILE_MB_VARIABLE, str(FILE_MB))
    if not given.isascii() or not given.isdecimal() or not 0 < len(given) < 7 or int(given) == 0:
        raise BadInputError("file/limit", "must be a whole number of megabytes", about=FILE_MB_VARIABLE)
    return int(given) * 1_000_000


def read_bytes(path: Path, *, code: str, most: int = 0, silent: float = SILENT_SECONDS) -> bytes:
    """All of a file or pipe, at most `most` bytes (0: `most_bytes`).

    Raises `BadInputError` with this code: it is missing, a folder, not readable, too large, or empty.
    """
    limit = most or most_bytes()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise _unreadable(code, path, error) from error
    try:
        return _all(descriptor, limit, silent, code, path)
    except OSError as error:
        raise _unreadable(code, path, error) from error
    finally:
        os.close(descriptor)


def read_text(path: Path, *, code: str, most: int = 0) -> str:
    """The same as UTF-8 text; raises `BadInputError` for bytes that are none."""
    content = read_bytes(path, code=code, most=most)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadInputError(code, f"is no text: line {line} holds bytes that are no UTF-8", about=str(path)) from error


def _all(descriptor: int, limit: int, silent: float, code: str, path: Path) -> bytes:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise BadInputError(code, "is a folder, not a file", about=str(path))
    waits = not stat.S_ISREG(mode)
    parts: list[bytes] = []
    size = 0
    heard = time.monotonic()
    while True:
        if waits and not select.select([descriptor], [], [], max(0.0, heard + silent - time.monotonic()))[0]:
            raise BadInputError(code, f"gave nothing for {silent:g} s: does anything write to it?", about=str(path))
        try:
            part = os.read(descriptor, min(_PIECE, limit + 1 - size))
        except BlockingIOError:
            if time.monotonic() > heard + silent:
                raise BadInputError(code, f"gave nothing for {silent:g} s", about=str(path)) from None
            continue
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        heard = time.monotonic()
        if size > limit:
            raise BadInputError(
                code,
                f"is larger than {limit / 1e6:g} MB: is it the right file? ${FILE_MB_VARIABLE} raises the limit",
                about=str(path),
            )


def _unreadable(code: str, path: Path, error: Exception) -> BadInputError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return BadInputError(code, f"cannot be read: {reason}", about=str(path))
