"""All that was ever written to the simulated log, also what the log lost since; and what each commit should have held.

A log that loses, forgets and changes records cannot say afterwards what a compiler had read. The ledger can: each
record names by its chain the one before it, so the history of a commit is found even where two histories have the
same epoch and the same sequences (a log that was rolled back and written to by who had not noticed).

One thing a reader cannot tell, and the ledger counts it apart: a log that lost its first record from one that was
trimmed. Who begins to read there misses objects that live, until the ingestor compares the log with Kubernetes; it
never has one that is gone, because a deletion is lost only together with all that it deletes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping

from services.compiler.offline import compile_events
from shared import blob, events
from shared.eventlog.chain import checkpoint_at
from shared.eventlog.memory import MemoryLog, MemoryLogs
from shared.eventlog.protocol import GENESIS, HEADER_CHAIN, Draft, Record
from shared.events import Event
from shared.snapshot import Commit, Snapshot, SnapshotError, decode_commit
from shared.subjects import Streams

Wrote = Callable[[Record], None]


class Ledger:
    """Whether each published commit holds what a compile from scratch of the events up to its version gives."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._after: dict[str, Record] = {}
        """Chain after an event → that event's record."""
        self._ends: dict[tuple[str, int], set[str]] = {}
        """(epoch, sequence) → the chains that were ever there."""
        self._commits: list[Commit] = []
        self._assembler = blob.Assembler()
        self._fronts: set[str] = set()
        """Chains before the first record of a log that had lost its beginning."""
        self.beheaded = 0
        """Commits made from such a log, of those that were compared."""

    def listener(self, stream: str) -> Wrote | None:
        """Who is told of each record of a stream."""
        return {self._streams.events: self._event, self._streams.snapshots: self._commit}.get(stream)

    def begins(self, record: Record) -> None:
        """The log of events has lost its beginning, and this is its first record now."""
        self._fronts.add(record.headers[HEADER_CHAIN])

    def _event(self, record: Record) -> None:
        after = checkpoint_at(record)
        self._after[after.chain] = record
        self._ends.setdefault((after.epoch, record.sequence), set()).add(after.chain)

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
            if index in wanted and (why := self._differs(snapshot)):
                wrong.append(f"P6, commit {index + 1} of {len(self._commits)}: {why}")
        return len(wanted), wrong

    def _differs(self, snapshot: Snapshot) -> str:
        ends = self._ends.get((snapshot.epoch, snapshot.version))
        if not ends:
            return f"version {snapshot.version} of epoch {snapshot.epoch} is no event that was ever written"
        found = contents(snapshot)
        for end in sorted(ends):
            if contents(compile_events(self._history(end, GENESIS))) == found:
                return ""
        for end, front in itertools.product(sorted(ends), sorted(self._fronts)):
            if contents(compile_events(self._history(end, front))) == found:
                self.beheaded += 1
                return ""
        return f"version {snapshot.version} is not what a compile from scratch of the events up to it gives"

    def _history(self, end: str, begin: str) -> list[Event]:
        """The events of an epoch after one chain, up to the one that another chain ends with."""
        found: list[Event] = []
        while end not in {begin, GENESIS}:
            record = self._after[end]
            found.append(events.decode(record.payload))
            end = record.headers[HEADER_CHAIN]
        return found[::-1]


class RecordedLog(MemoryLog):
    """A stream of which each record is told as it is written, and what its first is once it lost the first."""

    wrote: Wrote | None = None
    begins: Wrote | None = None
    _beheaded = False

    def lose(self, sequence: int) -> None:
        """Leave a hole where a record was."""
        self._beheaded = self._beheaded or sequence == self._order[0]
        super().lose(sequence)

    def _write(self, draft: Draft, headers: Mapping[str, str]) -> int:
        sequence = super()._write(draft, headers)
        if self.wrote is not None:
            self.wrote(self._records[sequence])
        return sequence

    def _drop(self, sequence: int) -> None:
        super()._drop(sequence)
        if self._beheaded and self._order and self.begins is not None:
            self.begins(self._records[self._order[0]])


class RecordedLogs(MemoryLogs):
    """The streams of one mesh, with a ledger."""

    def __init__(self, streams: Streams, ledger: Ledger, *, clock: Callable[[], int]) -> None:
        super().__init__(streams, clock=clock)
        self._streams = streams
        self._ledger = ledger

    def stream(self, name: str) -> MemoryLog:
        """The stream of that name, made at the first call."""
        if name not in self._open:
            log = self._open[name] = RecordedLog(self._specs.get(name, name), clock=self._clock)
            log.wrote = self._ledger.listener(name)
            log.begins = self._ledger.begins if name == self._streams.events else None
        return self._open[name]


def copied(snapshot: Snapshot) -> Snapshot:
    """A snapshot that can be folded further while this one stays."""
    copy = Snapshot()
    copy.version, copy.epoch, copy.build = snapshot.version, snapshot.epoch, snapshot.build
    copy.trust_domain = snapshot.trust_domain
    copy.resources = dict(snapshot.resources)
    copy.views = {
        workload_class: {type_url: dict(names) for type_url, names in view.items()}
        for workload_class, view in snapshot.views.items()
    }
    copy.proxies = dict(snapshot.proxies)
    copy.quarantine = list(snapshot.quarantine)
    copy.mesh_namespaces = list(snapshot.mesh_namespaces)
    return copy


def contents(snapshot: Snapshot) -> object:
    """What a snapshot says, without the version that says it."""
    bodies = {identity: resource.body for identity, resource in snapshot.resources.items()}
    return bodies, snapshot.views, snapshot.proxies, snapshot.quarantine, snapshot.mesh_namespaces
