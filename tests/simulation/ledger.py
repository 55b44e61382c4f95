"""All that was ever written to the simulated log, also what the log lost since; and what each commit should have held.

A log that loses, deletes and changes records cannot show afterwards what a compiler had read. The ledger can: each
record names the one before it by its chain, so the history of a commit is found even if two histories have the same
epoch and the same sequences (a log that was rolled back, then written to by a process that had not noticed).
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence

from services.compiler.core.offline import compile_events
from shared.eventlog.chain import chain_batch, checkpoint_at
from shared.eventlog.protocol import GENESIS, HEADER_CHAIN, Checkpoint, Draft, Record, epoch_records
from shared.records import chunked_payload, events
from shared.records.events import Event
from shared.records.snapshot import Commit, Snapshot, SnapshotError, decode_commit
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.simulation.disk import StreamDisk
from tests.simulation.witness import contents, copied

Wrote = Callable[[Record], None]


class Ledger:
    """Whether each published commit holds what a compile from scratch of the events up to its version gives."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._after: dict[str, Record] = {}
        """Chain after an event → that event's record."""
        self._ends: dict[tuple[str, int], set[str]] = {}
        """(epoch, sequence) → the chains that were ever there."""
        self._places: dict[str, tuple[int, int]] = {}
        """Chain after an event → its place in its epoch from 1, and how many records the epoch was announced with."""
        self._epochs: dict[str, bool] = {}
        """Every epoch that ever began → whether all records that it announced were written."""
        self._commits: list[Commit] = []
        self._assembler = chunked_payload.Assembler()
        self._published: dict[tuple[str, int], list[Snapshot]] = {}

    def listener(self, stream: str) -> Wrote | None:
        """The function to call with each record of a stream."""
        return {self._streams.events: self._event, self._streams.snapshots: self._commit}.get(stream)

    def _event(self, record: Record) -> None:
        after = checkpoint_at(record)
        self._after[after.chain] = record
        self._ends.setdefault((after.epoch, record.sequence), set()).add(after.chain)
        place, count = self._places.get(record.headers[HEADER_CHAIN], (0, epoch_records(record)))
        self._places[after.chain] = place + 1, count
        self._epochs[after.epoch] = self._epochs.get(after.epoch, False) or place + 1 >= count

    def _commit(self, record: Record) -> None:
        payload = self._assembler.feed(record)
        if payload is not None:
            self._commits.append(decode_commit(payload))

    def differing(self, chance: random.Random, most: int) -> tuple[int, list[str]]:
        """How many commits were compared, `most` of them drawn (0: all), and what is wrong with which.

        All are folded, each onto the version that it names as its parent; only the compile from scratch is drawn.
        """
        drawn = range(len(self._commits))
        if most and most < len(drawn):
            drawn = sorted(chance.sample(drawn, most))
        wanted, wrong = set(drawn), list[str]()
        held: dict[int, Snapshot] = {0: Snapshot()}
        for index, commit in enumerate(self._commits):
            parent = held.get(commit.parent)
            if parent is None:
                wrong.append(f"commit {commit.version} follows {commit.parent}, which was never published")
                continue
            snapshot = copied(parent)
            try:
                snapshot.apply(commit)
            except SnapshotError as error:
                wrong.append(f"commit {commit.version} cannot be folded: {error}")
                continue
            held[commit.version] = snapshot
            self._published.setdefault((snapshot.epoch, snapshot.version), []).append(snapshot)
            if index in wanted and (why := self._differs(snapshot)):
                wrong.append(f"P6, commit {index + 1} of {len(self._commits)}: {why}")
        return len(wanted), wrong

    def published(self, epoch: str, version: int) -> list[Snapshot]:
        """What was published under a version of an epoch, once `differing` has folded it."""
        return self._published.get((epoch, version), [])

    @property
    def epochs(self) -> int:
        """Epochs that ever began and were written to their announced end."""
        return sum(self._epochs.values())

    def _differs(self, snapshot: Snapshot) -> str:
        ends = self._ends.get((snapshot.epoch, snapshot.version))
        if not ends:
            return f"version {snapshot.version} of epoch {snapshot.epoch} is no event that was ever written"
        if all(place < count for place, count in map(self._places.__getitem__, ends)):
            return f"version {snapshot.version} is made of an epoch of which only the beginning was said"
        found = contents(snapshot)
        for end in sorted(ends):
            if contents(compile_events(self._history(end))) == found:
                return ""
        return f"version {snapshot.version} is not what a compile from scratch of the events up to it gives"

    def _history(self, end: str) -> list[Event]:
        """The events of an epoch, up to the one that a chain ends with."""
        found: list[Event] = []
        while end != GENESIS:
            record = self._after[end]
            with contextlib.suppress(events.CorruptEventError):  # of a stranger who may write the pin's subject
                found.append(events.read(record))
            end = record.headers[HEADER_CHAIN]
        return found[::-1]


class RecordedLog(StreamDisk):
    """A stream that calls a function with each record as it is written."""

    wrote: Wrote | None = None

    def also(self, wrote: Wrote) -> None:
        """Call another function too."""
        first = self.wrote

        def both(record: Record) -> None:
            if first is not None:
                first(record)
            wrote(record)

        self.wrote = both

    async def append_anyway(
        self, drafts: Sequence[Draft], *, scope: str, after: Checkpoint, epoch: str = ""
    ) -> Checkpoint:
        """Write although the scope may have moved on, as a writer without an expected sequence does."""
        self._check_up()
        forged = chain_batch(drafts, scope=scope, after=after, epoch=epoch)
        sequence = 0
        for draft, headers in zip(drafts, forged.headers, strict=True):
            sequence = self._write(draft, headers)
        self._wake()
        return forged.checkpoint(sequence)

    def intrude(self, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None) -> int:
        """Write a record that the ledger does not contain."""
        wrote, self.wrote = self.wrote, None
        try:
            return super().intrude(subject, payload, headers)
        finally:
            self.wrote = wrote

    def _write(self, draft: Draft, headers: Mapping[str, str]) -> int:
        sequence = super()._write(draft, headers)
        if self.wrote is not None:
            self.wrote(self._records[sequence])
        return sequence


class RecordedLogs(MemoryLogs):
    """The streams of one mesh, with a ledger."""

    def __init__(self, streams: Streams, ledger: Ledger, *, clock: Callable[[], int], chance: random.Random) -> None:
        super().__init__(streams, clock=clock)
        self._ledger = ledger
        self._chance = chance
        self._recorded: dict[str, RecordedLog] = {}

    def stream(self, name: str) -> RecordedLog:
        """The stream of that name, made at the first call."""
        if name not in self._recorded:
            log = RecordedLog(self._specs.get(name, name), clock=self._clock, chance=self._chance, foreign=self.foreign)
            self._open[name] = self._recorded[name] = log
            log.wrote = self._ledger.listener(name)
        return self._recorded[name]
