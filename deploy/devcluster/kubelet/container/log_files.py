"""Log files of containers: one file per container, bounded, and kept for a while after the pod is removed.

Containers append to the file themselves, so logging costs the kubelet nothing. A file above the limit is copied and
truncated, which is safe because it is open for appending only.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.kubelet.container.log_times import LineTimes

_CHUNK = 64 * 1024
_FOLLOW_PAUSE = 0.2
_LINES = re.compile(rb"[^\n]*\n|[^\n]+")


class LogRange(msgspec.Struct, frozen=True):
    """The requested part of a log."""

    tail: int | None = None
    """Number of lines from the end; None for all."""
    limit: int | None = None
    """Maximum number of bytes, timestamps included; None for no limit."""
    since: float | None = None
    """Earliest time of a line, in seconds since 1970; None for all."""
    timestamps: bool = False


ALL = LogRange()


class PodLogs:
    """Log files below one directory."""

    def __init__(
        self, root: Path, *, limit: int = 10 * 2**20, kept_pods: int = 100, now: Callable[[], float] = time.time
    ) -> None:
        self._root = root
        self._limit = limit
        self._kept_pods = kept_pods
        self._now = now
        self._moments: dict[Path, LineTimes] = {}
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, pod: Obj, container: str) -> Path:
        """The log file of a container; creates its directory."""
        directory = self._root / f"{object_fields.namespace(pod)}_{object_fields.name(pod)}_{object_fields.uid(pod)}"
        directory.mkdir(exist_ok=True, mode=0o700)
        path = directory / f"{container}.log"
        self._of(path)
        return path

    def find(self, namespace: str, pod: str, container: str) -> Path | None:
        """The newest log of a pod of this name, also if the pod is removed. Returns None if there is none."""
        found = list(self._root.glob(f"{namespace}_{pod}_*/{container}.log"))
        return max(found, key=lambda path: path.stat().st_mtime, default=None)

    def note(self) -> None:
        """Record the current size of each log. Must be called several times a second."""
        now = self._now()
        for path, moments in self._moments.items():
            moments.note(size(path), now)

    def bound(self) -> None:
        """Copy and truncate files above the limit. Must be called periodically."""
        for path in self._root.glob("*/*.log"):
            if (length := size(path)) > self._limit:
                self._of(path).note(length, self._now())
                shutil.copyfile(path, _older(path))
                with path.open("r+b") as stream:
                    stream.truncate(0)
                self._of(path).cut(_older(path).stat().st_size)

    def forget(self) -> None:
        """Remove the oldest directories beyond `kept_pods`. Must be called when a pod is removed."""
        directories = sorted(self._root.iterdir(), key=lambda path: path.stat().st_mtime)
        for directory in directories[: max(0, len(directories) - self._kept_pods)]:
            shutil.rmtree(directory, ignore_errors=True)
            self._moments = {path: kept for path, kept in self._moments.items() if path.parent != directory}

    async def read(
        self, path: Path, wanted: LogRange = ALL, *, follow: Callable[[], bool] | None = None
    ) -> AsyncGenerator[bytes]:
        """The requested part of a log; then appended bytes while `follow()` is true."""
        moments = self._of(path)
        moments.note(size(path), self._now())
        reported = _LogExcerpt(wanted, moments)
        older, offset = _content(_older(path)), size(path)
        held = older + part(path, 0, offset)
        skipped = _beginning(held, wanted.tail)
        if piece := reported.filter(held[skipped:], moments.cut_off - len(older) + skipped):
            yield piece
        while follow is not None and not reported.full:
            going = follow()
            end = size(path)
            if end < offset:
                offset = 0
            if end > offset:
                moments.note(end, self._now())
                fresh = part(path, offset, min(end, offset + _CHUNK))
                if piece := reported.filter(fresh, moments.cut_off + offset):
                    yield piece
                offset += len(fresh)
            elif not going:
                return
            else:
                await asyncio.sleep(_FOLLOW_PAUSE)

    def read_part(self, path: Path, begin: int, end: int, wanted: LogRange = ALL) -> bytes:
        """The requested part of the bytes between two offsets of the file."""
        moments = self._of(path)
        held = part(path, begin, end)
        skipped = _beginning(held, wanted.tail)
        return _LogExcerpt(wanted, moments).filter(held[skipped:], moments.cut_off + begin + skipped)

    def _of(self, path: Path) -> LineTimes:
        found = self._moments.get(path)
        if found is None:
            found = self._moments[path] = LineTimes()
            found.note(size(path), self._now())
        return found


class _LogExcerpt:
    """Filters the bytes of a log, piece by piece, by a `LogRange`, and adds timestamps."""

    def __init__(self, wanted: LogRange, moments: LineTimes) -> None:
        self._wanted = wanted
        self._moments = moments
        self._begins_line = True
        self._dropping = False
        self._left = wanted.limit

    @property
    def full(self) -> bool:
        """True if the byte limit is reached."""
        return self._left is not None and self._left <= 0

    def filter(self, piece: bytes, place: int) -> bytes:
        """Returns the requested part of a piece that begins at offset `place` of the log."""
        if self._wanted.timestamps or self._wanted.since is not None:
            piece = b"".join(self._lines(piece, place))
        if self._left is not None:
            piece = piece[: self._left]
            self._left -= len(piece)
        return piece

    def _lines(self, piece: bytes, place: int) -> list[bytes]:
        parts: list[bytes] = []
        for line in _LINES.findall(piece):
            if self._begins_line:
                when = self._moments.of(place)
                self._dropping = self._wanted.since is not None and when < self._wanted.since
                if self._wanted.timestamps and not self._dropping:
                    stamp = datetime.fromtimestamp(when, UTC).isoformat(timespec="microseconds")
                    parts.append(stamp.removesuffix("+00:00").encode() + b"Z ")
            if not self._dropping:
                parts.append(line)
            self._begins_line = line.endswith(b"\n")
            place += len(line)
        return parts


def size(path: Path) -> int:
    """The size of a file in bytes, 0 if it does not exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def part(path: Path, begin: int, end: int) -> bytes:
    """The bytes between two offsets; empty if the file was truncated meanwhile."""
    if end <= begin or size(path) < end:
        return b""
    with path.open("rb") as stream:
        stream.seek(begin)
        return stream.read(end - begin)


def _beginning(held: bytes, lines: int | None) -> int:
    """Offset of the last `lines` lines; 0 if None."""
    if lines is None:
        return 0
    at = len(held)
    if at and lines > 0 and not held.endswith(b"\n"):
        at, lines = held.rfind(b"\n") + 1, lines - 1
    while lines > 0 and at > 0:
        at, lines = held.rfind(b"\n", 0, at - 1) + 1, lines - 1
    return at


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _older(path: Path) -> Path:
    return path.with_suffix(".log.1")
