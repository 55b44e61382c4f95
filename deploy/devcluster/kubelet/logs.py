"""What containers print: one file each, appended to across restarts, bounded, and kept for a while after the pod.

Containers write to the file themselves, so the node agent spends nothing on it; a file that has grown too long is
copied aside and truncated, which is safe because it is open for appending only.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from deploy.devcluster import objects
from deploy.devcluster.cluster import Obj

_CHUNK = 64 * 1024
_FOLLOW_PAUSE = 0.2


class PodLogs:
    """The log files below one directory."""

    def __init__(self, root: Path, *, limit: int = 10 * 2**20, kept_pods: int = 100) -> None:
        self._root = root
        self._limit = limit
        self._kept_pods = kept_pods
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, pod: Obj, container: str) -> Path:
        """The file of one container, its directory made."""
        directory = self._root / f"{objects.namespace(pod)}_{objects.name(pod)}_{objects.uid(pod)}"
        directory.mkdir(exist_ok=True, mode=0o700)
        return directory / f"{container}.log"

    def find(self, namespace: str, pod: str, container: str) -> Path | None:
        """The newest log of a pod of this name, also of one that is gone."""
        found = list(self._root.glob(f"{namespace}_{pod}_*/{container}.log"))
        return max(found, key=lambda path: path.stat().st_mtime, default=None)

    def bound(self) -> None:
        """Truncate files that are too long; call it now and then."""
        for path in self._root.glob("*/*.log"):
            if path.stat().st_size > self._limit:
                shutil.copyfile(path, _older(path))
                with path.open("r+b") as stream:
                    stream.truncate(0)

    def forget(self) -> None:
        """Remove the oldest directories, beyond the number that is kept. Call it when a pod has gone."""
        directories = sorted(self._root.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in directories[: max(0, len(directories) - self._kept_pods)]:
            shutil.rmtree(path, ignore_errors=True)


async def read(
    path: Path, *, tail: int | None = None, limit: int | None = None, follow: Callable[[], bool] | None = None
) -> AsyncIterator[bytes]:
    """A log's bytes: all, or the last `tail` lines, at most `limit` bytes; then what comes while `follow()` is true."""
    held, offset = _everything(path), size(path)
    if tail is not None:
        held = b"".join(held.splitlines(keepends=True)[-tail:]) if tail > 0 else b""
    if limit is not None:
        held = held[:limit]
    if held:
        yield held
    while follow is not None:
        going = follow()
        end = size(path)
        if end < offset:
            offset = 0
        if end > offset:
            fresh = part(path, offset, min(end, offset + _CHUNK))
            offset += len(fresh)
            yield fresh
        elif not going:
            return
        else:
            await asyncio.sleep(_FOLLOW_PAUSE)


def size(path: Path) -> int:
    """Where the next line will begin."""
    return path.stat().st_size if path.exists() else 0


def part(path: Path, begin: int, end: int) -> bytes:
    """The bytes from one place to another; nothing if the file was truncated since."""
    if end <= begin or size(path) < end:
        return b""
    with path.open("rb") as stream:
        stream.seek(begin)
        return stream.read(end - begin)


def _everything(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in (_older(path), path) if each.exists())


def _older(path: Path) -> Path:
    return path.with_suffix(".log.1")
