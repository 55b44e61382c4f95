"""Atomic replacement of files: a reader sees the old content or the new, whole.

The content is written to a temporary file in the same folder and renamed over the target. If anything fails, the
temporary file is removed and the target is as it was. A process that is killed in between leaves its temporary file
behind; the next write into the folder removes those that are older than `_STALE` seconds.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO, Literal

Sync = Literal["none", "file", "folder"]
"""What is on disk when a write returns: nothing for certain, the content, or the content and its name.

Without any, a power cut may leave an empty file in place of the old one: for content that is checked when read.
"""

_PREFIX, _SUFFIX = ".meshlog-", ".new"
_STALE = 3600.0


def write_atomically(
    path: Path, content: bytes, *, mode: int = 0o600, sync: Sync = "folder", replace: bool = True
) -> bool:
    """Write a file, whole or not at all; whether it was written.

    With `replace=False` a file that exists is kept, also one that another process writes at the same time. The folder
    must exist. `mode` is subject to the umask. Raises `OSError`.
    """
    try:
        with replacing(path, mode=mode, sync=sync, replace=replace) as file:
            file.write(content)
    except FileExistsError:
        if replace:
            raise
        return False
    return True


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o600, sync: Sync = "folder", replace: bool = True) -> Generator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends without an error.

    See `write_atomically`. Raises `OSError`; `FileExistsError` if `path` exists and `replace` is false.
    """
    _remove_stale(path.parent)
    draft = path.with_name(f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            if sync != "none":
                file.flush()
                os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            # Unlike a rename, a link never replaces.
            path.hardlink_to(draft)
    finally:
        # After a rename it is gone.
        draft.unlink(missing_ok=True)
    if sync == "folder":
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk: those written, renamed and removed. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale(folder: Path) -> None:
    """Remove temporary files of processes that were killed; never those of a write that is under way."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{_PREFIX}{'[0-9a-f]' * 16}{_SUFFIX}"):
            if path.lstat().st_mtime < time.time() - _STALE:
                path.unlink()
