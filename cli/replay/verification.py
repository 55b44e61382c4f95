"""Replays a log and compares each version with what the live compiler published (`meshlog replay`).

The batches of the live compiler depend on the load of its machine; a snapshot must not. So the replay folds up to each
published version, compiles, and compares the names and hashes of every view, proxies and quarantine. It compares the
commits where both have the same parent, and the whole snapshots where they have not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from cli.history.log_source import LogSource
from cli.history.object_states import LostHistoryError, complete_from
from cli.history.recompile import settings_of
from cli.history.timeline import PublishedCommit, Timeline
from services.compiler.core.compiler import Compiler
from shared.eventlog.chain import ChainVerifier
from shared.eventlog.protocol import ChainBrokenError, Record
from shared.records import events
from shared.records.consistency import Checker
from shared.records.snapshot import Commit, ResourceId, Snapshot, SnapshotError


class ReplayDifference(msgspec.Struct, frozen=True):
    """The first version at which the replay differs from the log."""

    version: int
    what: str
    """The query or part that differs."""
    published: str
    replayed: str
    replayed_resource: ResourceId | None = None
    """Type URL, name and hash of the replayed resource, or None if the difference is not one of a resource."""


class ReplayOutcome(msgspec.Struct):
    """The results of a replay."""

    events: int = 0
    skipped: int = 0
    foreign: int = 0
    """Number of records of all streams that no writer of the mesh can have written; they are skipped."""
    versions: int = 0
    """Number of published versions that were compared."""
    forgotten: int = 0
    """Number of published versions that could not be compared: the log has trimmed their events."""
    resources: int = 0
    """Number of hashes that were compared."""
    last: int = 0
    """The newest version reached."""
    epochs: int = 0
    broken: str = ""
    """Where the log's chain is broken; empty if it is intact."""
    difference: ReplayDifference | None = None
    inconsistent: list[str] = []
    """Inconsistencies of the first inconsistent version, one sentence each; see `shared.records.consistency`."""
    inconsistent_at: int = 0
    """The first inconsistent version; 0 if all that were compiled and compared are consistent."""
    builds: list[str] = []
    """Builds of the compilers that published the compared versions."""


class Replay:
    """Replays one log. `run` does all of it; afterwards `snapshot` is the newest version rebuilt."""

    def __init__(self, source: LogSource, *, until: int | None = None, verify: bool = False) -> None:
        self.outcome = ReplayOutcome()
        self.snapshot = Snapshot()
        self._source = source
        self._timeline = Timeline(source)
        self._commits = self._timeline.commits(until=until)
        self._waiting: PublishedCommit | None = None
        self._until = until
        self._verify = verify
        self._known_from = 0
        self._void = False
        self._published = Snapshot()
        self._settings = settings_of(source.about)
        self._compiler = Compiler(self._settings, recording=False)
        self._verifier = ChainVerifier()
        self._checker = Checker()

    async def run(self) -> ReplayOutcome:
        """Replay the log; stops at the first difference."""
        base = await self._begin()
        async for record in self._source.events.read(start=base + 1, subjects=self._source.scope):
            # Check the chain first: a version whose records are lost cannot be compiled again.
            starts = self._check_chain(record)
            waiting = self._waiting
            due = waiting is not None and waiting.commit.version < record.sequence
            if due and not await self._reach(record.sequence - 1):
                return self.outcome
            if self._until is not None and record.sequence > self._until:
                break
            if starts:
                self._begin_epoch()
            self._fold(record)
        if base == 0 and self._source.archive is None:
            # A live log must be read from its beginning; a file may begin anywhere.
            self.outcome.broken = self.outcome.broken or self._verifier.headless
        if await self._reach(self._compiler.version) and not self._verify:
            self._compile()
        if self._verify:
            self._check(None)
        self.outcome.last = self.snapshot.version
        self.outcome.foreign = sum(self._source.foreign.counts.values())
        return self.outcome

    async def _begin(self) -> int:
        """Load the state of an export that begins in the middle of a log. Returns the sequence of that state."""
        base, records = 0, list[Record]()
        if self._source.archive is not None:
            first, _ = await self._source.events.bounds()
            base, records = self._source.archive.state(until=first - 1)
        self._known_from = await complete_from(self._source)
        first_event, last_event = await self._source.events.bounds()
        if first_event <= last_event < self._known_from:
            sentence = "the log begins in the middle, without what there was before it"
            raise LostHistoryError("history/forgotten", sentence)
        for record in records:
            self._fold(record)
        self._waiting = await anext(self._commits, None)
        while self._waiting is not None and self._waiting.commit.version < max(base, 1):
            await self._take(self._waiting.commit)
            self._waiting = await anext(self._commits, None)
        if base:
            self._compile()
        return base

    async def _reach(self, sequence: int) -> bool:
        """Compare the versions published up to `sequence`. Returns False at the first that differs."""
        while self._waiting is not None and self._waiting.commit.version <= sequence:
            if not await self._compare(self._waiting.commit):
                return False
            self._waiting = await anext(self._commits, None)
        return True

    def _check_chain(self, record: Record) -> bool:
        """Whether a record begins an epoch. After a break nothing is compared until the next epoch."""
        try:
            return self._verifier.fold(record)
        except ChainBrokenError as error:
            self.outcome.broken = self.outcome.broken or str(error)
            self._void = True
            self._verifier = ChainVerifier()
            return self._verifier.fold(record)

    def _begin_epoch(self) -> None:
        self._void = False
        self.outcome.epochs += 1
        if self.outcome.epochs > 1:
            # The objects of the previous epoch are void; views and hashes of the new are compared with the snapshot.
            self._compiler = Compiler(self._settings, recording=False)

    def _fold(self, record: Record) -> None:
        try:
            event = events.read(record)
        except events.CorruptEventError:
            self.outcome.skipped += 1
            return
        self.outcome.events += 1
        self._compiler.fold(event, record.sequence, epoch=record.epoch)

    def _compile(self) -> Commit | None:
        commit = self._compiler.commit(self.snapshot)
        if commit is not None and commit.version > self.snapshot.version:
            self.snapshot.apply(commit)
        self._compiler.accept()
        return commit

    async def _take(self, commit: Commit) -> None:
        if commit.version not in {0, self._published.version}:
            try:
                self._published.apply(commit)
            except SnapshotError:
                # Earlier commits are trimmed or lost: load the version from a keyframe instead.
                try:
                    self._published = await self._timeline.snapshot(commit.version)
                except LostHistoryError:
                    self._published = Snapshot()
        if commit.build not in self.outcome.builds:
            self.outcome.builds.append(commit.build)

    async def _compare(self, commit: Commit) -> bool:
        """Compare a published commit with the replay. Returns False if they differ."""
        if not self._verify:
            return True
        if self._void or commit.version < self._known_from or commit.version != self._compiler.version:
            # The log no longer holds all events of this version: they are trimmed or lost.
            self.outcome.forgotten += 1
            await self._take(commit)
            return True
        parent = self.snapshot.version
        replayed = self._compile()
        if replayed is not None:
            self._check(replayed.views)
        await self._take(commit)
        if self._published.version != commit.version:
            return True
        self.outcome.versions += 1
        self.outcome.resources += len(commit.resources)
        equal = replayed is not None and parent == commit.parent and _changes(replayed) == _changes(commit)
        if equal:
            return True
        self.outcome.resources += len(self._published.resources)
        found = next(differences(self._published, self.snapshot), None)
        if found is not None:
            what = f"{found.what}{self._made_by(found.replayed_resource)}"
            self.outcome.difference = msgspec.structs.replace(found, version=commit.version, what=what)
        return found is None

    def _check(self, classes: Collection[str] | None) -> None:
        """Record inconsistencies of these classes, or of all if None, in the version that was compiled last."""
        if self.outcome.inconsistent_at:
            return
        found = self._checker.check(self.snapshot, classes)
        if found:
            self.outcome.inconsistent, self.outcome.inconsistent_at = found, self.snapshot.version

    def _made_by(self, resource: ResourceId | None) -> str:
        """Return which query of the replay made a resource, as text; empty if that is unknown."""
        query = self._compiler.result().made_by(resource) if resource is not None else ""
        return f", made by query {query}" if query else ""


def _changes(commit: Commit) -> object:
    bodies = [(one.type_url, one.name, one.hash) for one in commit.resources]
    return bodies, commit.retired, commit.views, commit.proxies, commit.quarantine, commit.mesh_namespaces


def differences(published: Snapshot, replayed: Snapshot) -> Iterator[ReplayDifference]:
    """Yield the differences between two snapshots of one version, one part after the other."""
    version = published.version
    for workload_class in sorted({*published.views, *replayed.views}):
        published_view, replayed_view = published.views.get(workload_class), replayed.views.get(workload_class)
        if published_view is None or replayed_view is None:
            present = ["there" if view is not None else "absent" for view in (published_view, replayed_view)]
            yield ReplayDifference(version, f"class {workload_class} (query view)", present[0], present[1])
            continue
        for type_url in sorted({*published_view, *replayed_view}):
            held, made = published_view.get(type_url, {}), replayed_view.get(type_url, {})
            for name in sorted({*held, *made}):
                if held.get(name) != made.get(name):
                    what = f"{type_url.rpartition('.')[2]} {name} of class {workload_class}"
                    replayed_resource = (type_url, name, made[name]) if name in made else None
                    yield ReplayDifference(
                        version, what, held.get(name, "absent"), made.get(name, "absent"), replayed_resource
                    )
    for key in sorted({*published.proxies, *replayed.proxies}):
        if published.proxies.get(key) != replayed.proxies.get(key):
            what = f"proxy {key} (query proxy)"
            yield ReplayDifference(version, what, str(published.proxies.get(key)), str(replayed.proxies.get(key)))
    if published.quarantine != replayed.quarantine:
        yield ReplayDifference(version, "quarantine", str(published.quarantine), str(replayed.quarantine))
    if published.mesh_namespaces != replayed.mesh_namespaces:
        yield ReplayDifference(
            version, "namespaces of the mesh", str(published.mesh_namespaces), str(replayed.mesh_namespaces)
        )
