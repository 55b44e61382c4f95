"""The compiler's commits, in order, each once: a fold for views that keep what follows from them."""

from __future__ import annotations

from collections.abc import Callable

from shared.eventlog.fold import Epoch, ViewRestartError
from shared.eventlog.protocol import Record
from shared.records import chunked_payload
from shared.records.snapshot import Commit, SnapshotError, decode_commit


class CommitFold:
    """Puts the chunks of commits together and passes on those that are newer than the last.

    A new epoch of the commits begins with a commit that stands alone, whose version may be lower. A commit that cannot
    be decoded, or that does not follow the one before, makes the view read again, from the newest keyframe.
    """

    def __init__(self, take: Callable[[Commit], None]) -> None:
        """`take` may raise `SnapshotError` for a commit that does not follow the one before."""
        self._take = take
        self._assembler = chunked_payload.Assembler()
        self._epoch = ""
        self.version = 0
        """Of the newest commit that was taken in this epoch; 0 if there is none."""

    def begin(self, version: int | None = None) -> None:
        """Begin a reading: the next record is the first that the stream holds.

        `version` is that of the keyframe which was taken beside this fold; None if there is no keyframe.
        """
        self._assembler = chunked_payload.Assembler()
        if version is not None:
            self.version = version

    def reset(self, epoch: Epoch) -> None:
        """Accept lower versions if the epoch is another. What was taken stays in force until a commit replaces it."""
        if epoch.id != self._epoch:
            self._epoch, self.version = epoch.id, 0

    def fold(self, record: Record) -> bool:
        """Take the next chunk. Raises `BlobError` for a commit whose chunks are damaged, `ViewRestartError`."""
        payload = self._assembler.feed(record)
        if payload is None:
            return False
        try:
            commit = decode_commit(payload)
            if commit.version > self.version:
                self._take(commit)
                self.version = commit.version
        except SnapshotError as error:
            raise ViewRestartError("view/commit", error.sentence, about=f"commit at {record.sequence}") from error
        return False
