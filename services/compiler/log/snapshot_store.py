"""What is published: `MESH_SNAPSHOTS` and `MESH_KEYFRAMES`, as this compiler reads and continues them.

Commits are one chained scope, and each append names the checkpoint that it follows: a compiler that was deposed, or
slept, is refused by the log and reads on. A snapshot that cannot be read back (a broken chain, a lost commit) is
not guessed at: the next commit then stands alone (parent 0) in a new epoch, and edges replace theirs by it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from shared.eventlog.chain import ChainVerifier, checkpoint_at
from shared.eventlog.epoch import begins_later, new_epoch
from shared.eventlog.protocol import (
    EMPTY,
    BatchTooLargeError,
    ChainBrokenError,
    Checkpoint,
    EventLog,
    EventLogError,
    LogUnavailableError,
    StaleWriterError,
)
from shared.records import chunked_payload
from shared.records.snapshot import Commit, FutureSnapshotError, Snapshot, SnapshotError, decode_commit, encode_commit
from shared.records.subjects import Streams
from shared.telemetry import traces

_log = logging.getLogger(__name__)


class HistoryRetention(msgspec.Struct, frozen=True):
    """How much of the past is kept."""

    seconds: float = 7 * 86400.0
    """The history window: every version that was in force in it can be rebuilt."""
    keyframes: int = 20
    """Keyframes at most, even within the window, so that a busy mesh does not fill the disk; at least 2."""


class SnapshotStore:
    """The published snapshot, and the right to add to it."""

    def __init__(
        self, snapshots: EventLog, keyframes: EventLog, streams: Streams, *, epoch_id: Callable[[], str] = new_epoch
    ) -> None:
        self.published = Snapshot()
        self.highest = 0
        """The highest version ever published here, as far as the log shows."""
        self.highest_epoch = ""
        """The epoch of the events that it was compiled from."""
        self.highest_build = ""
        """The build that made it."""
        self.keyframe_version = 0
        """Version of the newest keyframe; 0: there is none."""
        self.since_keyframe = 0
        """Bytes of commits since then."""
        self._snapshots = snapshots
        self._keyframes = keyframes
        self._streams = streams
        self._epoch_id = epoch_id
        self._after: Checkpoint = EMPTY
        self._said = 0
        self._cut = False
        self._broken = False

    @property
    def hidden(self) -> bool:
        """Whether the published version is in a keyframe only: its commit was lost, so no follower receives it."""
        return self._said < self.published.version

    @property
    def doubtful(self) -> bool:
        """Whether an edge may hold another version than the published one and nothing in the log leads it there."""
        return self.hidden or self._cut or self.published.version < self.highest

    async def load(self) -> None:
        """Read the newest keyframe and the commits after it. Raises `LogUnavailableError`."""
        self.published = Snapshot()
        self.since_keyframe = 0
        self._broken = False
        await self._load_keyframe()
        subject = self._streams.snapshot_subject
        verifier, assembler = ChainVerifier(), chunked_payload.Assembler()
        self._after, self._said = EMPTY, 0
        async for record in self._snapshots.read(subjects=subject):
            # Not the stream's tip afterwards: another compiler may have published since, which must be read first.
            self._after, self._said = checkpoint_at(record), chunked_payload.version_of(record)
            try:
                verifier.fold(record)
                payload = assembler.feed(record)
                if payload is not None:
                    self._take(payload)
            except (ChainBrokenError, chunked_payload.BlobError, SnapshotError) as error:
                verifier = ChainVerifier()
                if isinstance(error, FutureSnapshotError):
                    # What a newer build published counts, though it cannot be read: versions only grow.
                    self._rise(
                        max(self.highest, chunked_payload.version_of(record)), chunked_payload.epoch_of(record), ""
                    )
                if chunked_payload.version_of(record) > self.published.version:
                    _log.warning("the published snapshot is broken at record %d: %s", record.sequence, error)
                    self._broken = True
        self._note(self.published)
        # A sequence that was given, and of which there is no record: a commit that an edge may have read.
        self._cut = await self._snapshots.lacks_after(self._after.sequence)
        if self._broken:
            self.published = Snapshot()

    async def refresh(self) -> None:
        """Read what others published since; everything, if that does not continue what was read before."""
        if self._broken or not self._after.epoch:
            await self.load()
            return
        verifier, assembler = ChainVerifier(self._after), chunked_payload.Assembler()
        try:
            async for record in self._snapshots.read(
                start=self._after.sequence + 1, subjects=self._streams.snapshot_subject
            ):
                if verifier.fold(record):
                    self.published = Snapshot()
                self._said, self._cut = chunked_payload.version_of(record), False
                payload = assembler.feed(record)
                if payload is not None:
                    self._take(payload)
            tip = await self._snapshots.tip(self._streams.snapshot_subject)
        except (ChainBrokenError, chunked_payload.BlobError, SnapshotError):
            await self.load()
            return
        self._after = verifier.checkpoint
        if tip.sequence < self._after.sequence or (tip.sequence == self._after.sequence and tip != self._after):
            await self.load()

    async def intact(self) -> bool:
        """Whether the log still ends with what was published, judged by its last record."""
        return await self._snapshots.tip(self._streams.snapshot_subject) == self._after

    async def leads_here(self, *, whole: bool) -> bool:
        """Whether a cold start reaches the published version: there is a keyframe; if `whole`, everything is read.

        Commits before the newest keyframes are trimmed, and a follower does not notice damage between a keyframe and
        the end.
        """
        newest = await self._keyframes.last(self._streams.keyframe_subject)
        if newest is None or chunked_payload.version_of(newest) < self.keyframe_version:
            return False
        if not whole:
            return True
        reader = SnapshotStore(self._snapshots, self._keyframes, self._streams)
        await reader.load()
        return reader.published.version >= self.published.version

    async def _load_keyframe(self) -> None:
        try:
            found = await chunked_payload.newest(self._keyframes, self._streams.keyframe_subject)
            if found is not None:
                self.published.apply(decode_commit(found[1]))
                self.keyframe_version = self.published.version
        except LogUnavailableError:
            raise
        except (EventLogError, SnapshotError) as error:
            _log.warning("the newest keyframe cannot be used: %s", error)
            self.published = Snapshot()

    def outdoes(self, commit: Commit) -> bool:
        """Whether a commit may follow all that was ever published: versions grow within an epoch and from one to next.

        A later epoch has smaller versions only if everything was lost at once; readers recognise the loss by that.
        """
        later = begins_later(commit.epoch, self.highest_epoch)
        return commit.version > (self.published.version if later else self.highest)

    def _note(self, seen: Commit | Snapshot) -> None:
        if seen.version >= self.highest or begins_later(seen.epoch, self.highest_epoch):
            self._rise(seen.version, seen.epoch, seen.build)

    def _rise(self, version: int, epoch: str, build: str) -> None:
        self.highest, self.highest_epoch, self.highest_build = version, epoch, build

    def _take(self, payload: bytes) -> None:
        commit = decode_commit(payload)
        self._note(commit)
        if commit.version <= self.published.version or (self._broken and commit.parent):
            return
        self._broken = False
        self.published.apply(commit)
        self.since_keyframe += len(payload)

    async def append(self, commit: Commit, *, traceparent: str = "") -> int:
        """Publish one commit; returns its size in bytes.

        Raises `StaleWriterError` if another compiler has published since, `LogUnavailableError` if it may or may not
        be written: `load` shows which.
        """
        payload = encode_commit(commit)
        subject = self._streams.snapshot_subject
        headers = traces.inject(traceparent=traceparent)
        drafts = chunked_payload.split(payload, subject, version=commit.version, epoch=commit.epoch, headers=headers)
        # A snapshot that stands alone because the chain is broken starts a new one.
        starts = self._broken or not self._after.epoch
        self._after = await self._snapshots.append(
            drafts, scope=subject, after=self._after, epoch=self._epoch_id() if starts else ""
        )
        self._broken = self._cut = False
        self._said = commit.version
        self.published.apply(commit)
        self._rise(commit.version, commit.epoch, commit.build)
        self.since_keyframe += len(payload)
        return len(payload)

    async def append_keyframe(self) -> bool:
        """Write the whole snapshot, so that readers need not start from the first commit; false if another did."""
        subject = self._streams.keyframe_subject
        version = self.published.version
        after = await self._keyframes.tip(subject)
        try:
            keyframe = encode_commit(self.published.keyframe())
            drafts = chunked_payload.split(keyframe, subject, version=version, epoch=self.published.epoch)
            await self._keyframes.append(
                drafts, scope=subject, after=after, epoch="" if after.epoch else self._epoch_id()
            )
        except StaleWriterError:
            return False
        except BatchTooLargeError as error:
            _log.warning("no keyframe is written: %s", error)
            return False
        self.keyframe_version = version
        self.since_keyframe = 0
        return True

    async def trim(self, kept: HistoryRetention) -> int:
        """Forget keyframes and commits that lie before what is kept; the version from which on there is history.

        A kept keyframe has all commits after it, so whichever of them is whole gives the present. Ages are
        differences between the log's own times.
        """
        subject = self._streams.keyframe_subject
        marks = [
            (record.sequence, chunked_payload.version_of(record), record.time)
            async for record in self._keyframes.read(subjects=subject)
            if record.batch[0] == 1
        ]
        if not marks:
            return 0
        horizon = marks[-1][2] - int(kept.seconds * 1e9)
        by_age = max((index for index, mark in enumerate(marks) if mark[2] <= horizon), default=0)
        oldest = max(by_age, len(marks) - max(2, kept.keyframes))
        sequence, version, _ = marks[oldest]
        if oldest > 0:
            await self._keyframes.trim(before=sequence)
        async for record in self._snapshots.read(subjects=self._streams.snapshot_subject):
            if chunked_payload.version_of(record) > version:
                await self._snapshots.trim(before=record.sequence)
                return version
        # All of them lie before it; the newest stays, so that the chain goes on.
        newest = await self._snapshots.last(self._streams.snapshot_subject)
        if newest is not None:
            await self._snapshots.trim(before=newest.sequence)
        return version
