"""All that was ever written to the simulated log, also what the log lost since; and what each commit should have held.

A log that loses, forgets and changes records cannot say afterwards what a compiler had read. The ledger can: each
record names by its chain the one before it, so the history of a commit is found even where two histories have the
same epoch and the same sequences (a log that was rolled back and written to by who had not noticed).
"""

from __future__ import annotations

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

    def listener(self, stream: str) -> Wrote | None:
        """Who is told of each record of a stream."""
        return {self._streams.events: self._event, self._streams.snapshots: self._commit}.get(stream)

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
            if contents(compile_events(self._history(end))) == found:
                return ""
        return f"version {snapshot.version} is not what a compile from scratch of the events up to it gives"

    def _history(self, end: str) -> list[Event]:
        """The events of an epoch, up to the one that a chain ends with."""
        found: list[Event] = []
        while end != GENESIS:
            record = self._after[end]
            found.append(events.decode(record.payload))
            end = record.headers[HEADER_CHAIN]
        return found[::-1]


class RecordedLog(MemoryLog):
    """A stream of which each record is told as it is written."""

    wrote: Wrote | None = None

    def _write(self, draft: Draft, headers: Mapping[str, str]) -> int:
        sequence = super()._write(draft, headers)
        if self.wrote is not None:
            self.wrote(self._records[sequence])
        return sequence


class RecordedLogs(MemoryLogs):
    """The streams of one mesh, with a ledger."""

    def __init__(self, streams: Streams, ledger: Ledger, *, clock: Callable[[], int]) -> None:
        super().__init__(streams, clock=clock)
        self._ledger = ledger

    def stream(self, name: str) -> MemoryLog:
        """The stream of that name, made at the first call."""
        if name not in self._open:
            log = self._open[name] = RecordedLog(self._specs.get(name, name), clock=self._clock)
            log.wrote = self._ledger.listener(name)
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
