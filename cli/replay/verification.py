"""`meshlog replay`: fold a log again, and compare each version with what the live compiler published.

The live compiler chose its batches by the load of its machine; a snapshot must not depend on that. So the replay
folds up to each published version, compiles, and compares the names and hashes of every view, proxies and quarantine.
What is compared is the change where both sides come from the same parent, and the whole snapshot where they do not.
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
    """The first version at which the replay says otherwise than the log."""

    version: int
    what: str
    """The query or part that differs."""
    published: str
    replayed: str
    replayed_resource: ResourceId | None = None
    """Type URL, name and hash of what the replay made, if it is a resource."""


class ReplayOutcome(msgspec.Struct):
    """How a replay went."""

    events: int = 0
    skipped: int = 0
    foreign: int = 0
    """Records of all streams that no writer of the mesh can have written; they are passed over."""
    versions: int = 0
    """Published versions that were compared."""
    forgotten: int = 0
    """Published versions that could not be: the log has forgotten what they were made from."""
    resources: int = 0
    """Hashes that were compared."""
    last: int = 0
    """The newest version reached."""
    epochs: int = 0
    broken: str = ""
    """Where the log's chain does not hold; empty: it does."""
    difference: ReplayDifference | None = None
    inconsistent: list[str] = []
    """What is inconsistent in the first version that is, one sentence each; see `shared.records.consistency`."""
    inconsistent_at: int = 0
    """That version; 0: all that were compiled and compared are consistent."""
    builds: list[str] = []
    """Of the compilers that published what was compared."""


class Replay:
    """Folds one log again. `run` does it all; `snapshot` is then the newest version rebuilt."""

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
        """Replay; stops at the first difference."""
        base = await self._begin()
        async for record in self._source.events.read(start=base + 1, subjects=self._source.scope):
            # First the chain: what was compiled from records that are lost cannot be compiled again.
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
            # What was read from the beginning of a live log: a file may begin anywhere.
            self.outcome.broken = self.outcome.broken or self._verifier.headless
        if await self._reach(self._compiler.version) and not self._verify:
            self._compile()
        if self._verify:
            self._check(None)
        self.outcome.last = self.snapshot.version
        self.outcome.foreign = sum(self._source.foreign.counts.values())
        return self.outcome

    async def _begin(self) -> int:
        """Start with the state that the export begins with, if it begins in the middle; the sequence of that state."""
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
        """Compare the versions published up to `sequence`; false at the first that differs."""
        while self._waiting is not None and self._waiting.commit.version <= sequence:
            if not await self._compare(self._waiting.commit):
                return False
            self._waiting = await anext(self._commits, None)
        return True

    def _check_chain(self, record: Record) -> bool:
        """Whether a record begins an epoch. After a break nothing is compared until the next one."""
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
            # What came before is void; views and hashes of the new epoch are compared with what stands.
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
                # Commits before it are not kept, or were lost: a keyframe may tell.
                try:
                    self._published = await self._timeline.snapshot(commit.version)
                except LostHistoryError:
                    self._published = Snapshot()
        if commit.build not in self.outcome.builds:
            self.outcome.builds.append(commit.build)

    async def _compare(self, commit: Commit) -> bool:
        """Take a published commit; false if the replay says otherwise."""
        if not self._verify:
            return True
        if self._void or commit.version < self._known_from or commit.version != self._compiler.version:
            # Not all that it was made from is in the log any more: forgotten, or lost.
            self.outcome.forgotten += 1
            await self._take(commit)
            return True
        parent = self.snapshot.version
        ours = self._compile()
        if ours is not None:
            self._check(ours.views)
        await self._take(commit)
        if self._published.version != commit.version:
            return True
        self.outcome.versions += 1
        self.outcome.resources += len(commit.resources)
        alike = ours is not None and parent == commit.parent and _changes(ours) == _changes(commit)
        if alike:
            return True
        self.outcome.resources += len(self._published.resources)
        found = next(differences(self._published, self.snapshot), None)
        if found is not None:
            what = f"{found.what}{self._made_by(found.replayed_resource)}"
            self.outcome.difference = msgspec.structs.replace(found, version=commit.version, what=what)
        return found is None

    def _check(self, classes: Collection[str] | None) -> None:
        """Note what is inconsistent in these classes, or in all, of the version that was compiled last."""
        if self.outcome.inconsistent_at:
            return
        found = self._checker.check(self.snapshot, classes)
        if found:
            self.outcome.inconsistent, self.outcome.inconsistent_at = found, self.snapshot.version

    def _made_by(self, resource: ResourceId | None) -> str:
        """Which query made a resource of ours."""
        query = self._compiler.result().made_by(resource) if resource is not None else ""
        return f", made by query {query}" if query else ""


def _changes(commit: Commit) -> object:
    bodies = [(one.type_url, one.name, one.hash) for one in commit.resources]
    return bodies, commit.retired, commit.views, commit.proxies, commit.quarantine, commit.mesh_namespaces


def differences(published: Snapshot, replayed: Snapshot) -> Iterator[ReplayDifference]:
    """What differs between two snapshots of one version, one part after the other."""
    version = published.version
    for workload_class in sorted({*published.views, *replayed.views}):
        theirs, ours = published.views.get(workload_class), replayed.views.get(workload_class)
        if theirs is None or ours is None:
            present = ["there" if view is not None else "absent" for view in (theirs, ours)]
            yield ReplayDifference(version, f"class {workload_class} (query view)", present[0], present[1])
            continue
        for type_url in sorted({*theirs, *ours}):
            held, made = theirs.get(type_url, {}), ours.get(type_url, {})
            for name in sorted({*held, *made}):
                if held.get(name) != made.get(name):
                    what = f"{type_url.rpartition('.')[2]} {name} of class {workload_class}"
                    ours_of_it = (type_url, name, made[name]) if name in made else None
                    yield ReplayDifference(
                        version, what, held.get(name, "absent"), made.get(name, "absent"), ours_of_it
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
