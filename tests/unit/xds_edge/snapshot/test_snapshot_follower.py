"""What an edge makes of a log that goes back, loses records or begins again: versions only grow, and it comes along."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

import pytest

from services.xds_edge.snapshot import snapshot_follower
from services.xds_edge.snapshot.fleet import Fleet
from services.xds_edge.snapshot.gap_recovery import GapRecovery
from services.xds_edge.snapshot.snapshot_follower import SnapshotFollower
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import EMPTY, Checkpoint, Record
from shared.records import chunked_payload
from shared.records.snapshot import FORMAT, Commit, Snapshot, encode_commit
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from shared.timing.backoff import Backoff
from tests.waiting import eventually

STREAMS = Streams()
FIRST, LATER = "6b49d000-aaaaaaaa", "6b49d100-bbbbbbbb"


def commit(version: int, parent: int, epoch: str = FIRST) -> Commit:
    """The difference between two versions, of which only the numbers matter."""
    return Commit(
        format=FORMAT, version=version, parent=parent, epoch=epoch, build="b1", mesh_namespaces=[f"v{version}"]
    )


async def say(logs: MemoryLogs, told: Commit, *, keyframe: bool = False) -> None:
    """Append it to the log, continuing whatever is there."""
    subject = STREAMS.keyframe_subject if keyframe else STREAMS.snapshot_subject
    log = logs.stream(STREAMS.keyframes if keyframe else STREAMS.snapshots)
    after = await log.tip(subject)
    drafts = chunked_payload.split(encode_commit(told), subject, version=told.version)
    await log.append(drafts, scope=subject, after=after, epoch="" if after != EMPTY else f"chain-{told.version}")


class Edge:
    """A follower and the fleet that it keeps."""

    def __init__(self, logs: MemoryLogs, checkpoint: Checkpoint = EMPTY, held: Commit | None = None) -> None:
        self.fleet = Fleet()
        self.versions: list[int] = []
        self.stuck: list[str] = []
        self.current = False
        self.told: Callable[[int], None] = lambda _version: None
        """Called with the held version when everything was read."""
        if held is not None:
            self.fleet.apply(held)
        self.follower = SnapshotFollower(
            snapshots=logs.stream(STREAMS.snapshots),
            keyframes=logs.stream(STREAMS.keyframes),
            streams=STREAMS,
            fleet=self.fleet,
            applied=lambda applied: self.versions.append(applied.version),
            caught_up=lambda: self._is_current(True),
            lost=lambda: self._is_current(False),
            checkpoint=checkpoint,
            stuck=self.stuck.append,
        )

    def _is_current(self, current: bool) -> None:  # noqa: FBT001 - a callback
        self.current = current
        if current:
            self.told(self.fleet.version)

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncGenerator[Edge]:
        """Follow for as long as this lasts."""
        task = asyncio.create_task(self.follower.run())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def holds(self, version: int) -> None:
        """Wait for a version."""
        await eventually(lambda: self.fleet.version == version, within=5, what=f"version {version} is held")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that take seconds in life take hundredths here."""
    monkeypatch.setattr(snapshot_follower, "TIP_CHECK", 0.02)
    monkeypatch.setattr(snapshot_follower, "_AWAY_TIP_CHECK", 0.02)
    monkeypatch.setattr(snapshot_follower, "GAP_LOOK", 0.02)
    monkeypatch.setattr(snapshot_follower, "_DAMAGED", Backoff(first=0.01, longest=10.0))
    monkeypatch.setattr(snapshot_follower, "_UNREACHABLE", Backoff(first=0.01, longest=0.4))


async def test_a_log_that_went_back_behind_a_follower_that_has_read_nothing_yet_is_noticed() -> None:
    """Simulation, seed 383: it waited for sequence 4 while the log went back to 1 and grew to 2 again."""
    logs = MemoryLogs(STREAMS)
    for version, parent in ((10, 0), (11, 10), (12, 11)):
        await say(logs, commit(version, parent))
    edge = Edge(logs, await logs.stream(STREAMS.snapshots).tip(STREAMS.snapshot_subject), commit(12, 0))
    async with edge.following():
        await eventually(lambda: edge.follower.checkpoint != EMPTY, within=5, what="it follows")
        await asyncio.sleep(0)
        logs.stream(STREAMS.snapshots).roll_back(1)
        await say(logs, commit(20, 10))
        await say(logs, commit(20, 0), keyframe=True)
        await edge.holds(20)


async def test_a_keyframe_of_an_older_epoch_replaces_nothing() -> None:
    """Simulation, seed 238: when commits were lost, the newest keyframe was of the epoch before, and lower."""
    logs = MemoryLogs(STREAMS)
    await say(logs, commit(40, 0, FIRST), keyframe=True)
    await say(logs, commit(40, 0, FIRST))
    edge = Edge(logs)
    async with edge.following():
        await edge.holds(40)
        await say(logs, commit(77, 0, LATER))
        await edge.holds(77)
        restarts = edge.follower.restarts
        logs.stream(STREAMS.snapshots).roll_back(1)
        await eventually(lambda: edge.follower.restarts > restarts, within=5, what="it notices the loss")
        await asyncio.sleep(0.1)  # several looks for a keyframe
        assert edge.fleet.version == 77
        await say(logs, commit(78, 40, LATER))
        await say(logs, commit(78, 0, LATER), keyframe=True)
        await edge.holds(78)
    assert edge.versions == sorted(edge.versions)


async def test_after_the_loss_of_everything_an_epoch_that_began_later_counts_from_one() -> None:
    logs = MemoryLogs(STREAMS)
    await say(logs, commit(40, 0, FIRST))
    edge = Edge(logs)
    async with edge.following():
        await edge.holds(40)
        logs.stream(STREAMS.snapshots).recreate()
        await say(logs, commit(3, 0, LATER))
        await edge.holds(3)


async def test_what_is_said_again_ends_the_gap() -> None:
    logs = MemoryLogs(STREAMS)
    await say(logs, commit(10, 0))
    await say(logs, commit(11, 10))
    edge = Edge(logs)
    async with edge.following():
        await edge.holds(11)
        logs.stream(STREAMS.snapshots).roll_back(1)
        await eventually(lambda: edge.follower.gap, within=5, what="it notices the loss")
        await say(logs, commit(11, 10))
        await eventually(lambda: not edge.follower.gap, within=5, what="it holds what the log says again")
    assert edge.versions == [10, 11]


async def test_commits_that_go_on_from_before_what_is_held_lead_beyond_it() -> None:
    """Simulation, seed 3176: the compiler went on from the keyframe, and the edge held what had followed it once."""
    logs = MemoryLogs(STREAMS)
    await say(logs, commit(24, 0))
    await say(logs, commit(24, 0), keyframe=True)
    await say(logs, commit(45, 24))
    edge = Edge(logs)
    async with edge.following():
        await edge.holds(45)
        logs.stream(STREAMS.snapshots).recreate()
        await say(logs, commit(30, 24))
        await say(logs, commit(50, 30))
        await edge.holds(50)
        assert not edge.follower.gap
        await say(logs, commit(51, 50))
        await edge.holds(51)
    assert edge.versions == [24, 45, 50, 51], "nothing lower than what was held is ever served"
    assert edge.fleet.snapshot.mesh_namespaces == ["v51"]


async def test_commits_that_begin_anew_below_what_is_held_lead_beyond_it() -> None:
    logs = MemoryLogs(STREAMS)
    await say(logs, commit(45, 0))
    edge = Edge(logs)
    async with edge.following():
        await edge.holds(45)
        logs.stream(STREAMS.snapshots).recreate()
        await say(logs, commit(30, 0))
        await say(logs, commit(50, 30))
        await edge.holds(50)
    assert edge.versions == [45, 50]


class WatchedLog(MemoryLog):
    """It counts its followers, and can be slow."""

    followed = 0
    pause = 0.0
    """Seconds that each record takes."""

    async def follow(self, *, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        self.followed += 1
        async for record in super().follow(start=start, subjects=subjects):
            await asyncio.sleep(self.pause)
            yield record


class WatchedLogs(MemoryLogs):
    """Of which the commits are watched."""

    def __init__(self) -> None:
        super().__init__(STREAMS)
        self.commits = self._open[STREAMS.snapshots] = WatchedLog(STREAMS.snapshots)


async def test_a_long_way_around_a_gap_is_gone_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_follower, "GAP_LOOK", 0.05)
    logs = WatchedLogs()
    logs.commits.pause = 0.03
    await say(logs, commit(10, 0))
    edge = Edge(logs)
    async with edge.following():
        await edge.holds(10)
        logs.commits.recreate()
        for version in range(1, 10):
            await say(logs, commit(version, version - 1))
        await say(logs, commit(11, 9))
        await edge.holds(11)
    assert edge.versions == [10, 11]


async def test_when_a_gap_is_closed_commits_are_followed_on() -> None:
    """Simulation, seed 8585: the edge lost patience all the same, and read a keyframe of the past."""
    logs = WatchedLogs()
    await say(logs, commit(10, 0))
    edge = Edge(logs)
    async with edge.following():
        await edge.holds(10)
        followed = logs.commits.followed
        await say(logs, commit(12, 11))
        await say(logs, commit(20, 0))
        await edge.holds(20)
        assert edge.follower.restarts, "there was a gap"
        await asyncio.sleep(0.1)  # five times its patience
        assert logs.commits.followed == followed
        await say(logs, commit(21, 20))
        await edge.holds(21)


def test_what_does_not_follow_is_not_folded_and_ends_the_detour() -> None:
    held, recovery = Snapshot(), GapRecovery()
    held.apply(commit(45, 0))
    assert recovery.take(commit(24, 0), held) is None
    assert recovery.take(commit(30, 24), held) is None
    assert recovery.version == 30
    assert recovery.take(commit(29, 24), held) is None
    assert recovery.version == 30, "what was folded already changes nothing"
    assert recovery.take(commit(50, 40), held) is None
    assert recovery.version == 0
    assert recovery.take(commit(51, 50), held) is None
    assert recovery.take(commit(46, 45), held) == commit(46, 45), (
        "what follows the version that is held needs no recovery"
    )


async def test_an_edge_knows_that_it_may_be_behind_while_the_log_is_away() -> None:
    logs = MemoryLogs(STREAMS)
    await say(logs, commit(10, 0))
    edge = Edge(logs)
    async with edge.following():
        await eventually(lambda: edge.current, within=5, what="it has read all there is")
        logs.stream(STREAMS.snapshots).down()
        await eventually(lambda: not edge.current, within=5, what="the log is away")
        logs.stream(STREAMS.snapshots).up()
        await eventually(lambda: edge.current, within=5, what="it has read all there is again")


async def test_an_edge_is_no_longer_behind_only_when_it_has_read_what_was_said_meanwhile() -> None:
    logs = MemoryLogs(STREAMS)
    await say(logs, commit(10, 0))
    edge = Edge(logs)
    told: list[int] = []
    async with edge.following():
        await eventually(lambda: edge.current, within=5, what="it has read all there is")
        log = logs.stream(STREAMS.snapshots)
        log.down()
        await eventually(lambda: not edge.current, within=5, what="the log is away")
        edge.told = told.append
        log.up()
        await say(logs, commit(11, 10))
        await eventually(lambda: edge.current, within=5, what="it has read all there is again")
    assert told[0] == 11


async def test_a_commit_that_a_full_log_took_in_part_is_no_gap_and_the_same_once_more_is_folded() -> None:
    logs = MemoryLogs(STREAMS)
    await say(logs, commit(10, 0))
    log = logs.stream(STREAMS.snapshots)
    drafts = chunked_payload.split(encode_commit(commit(11, 10)), STREAMS.snapshot_subject, version=11, chunk=20)
    whole = await log.append(drafts, scope=STREAMS.snapshot_subject, after=await log.tip(STREAMS.snapshot_subject))
    log.roll_back(whole.sequence - 1)
    edge = Edge(logs)
    async with edge.following():
        await edge.holds(10)
        await say(logs, commit(11, 10))
        await edge.holds(11)
        assert edge.follower.restarts == 0


async def test_an_edge_to_which_commits_come_late_knows_that_it_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulation, seeds 3464 and 6274: an edge that still read counted as one that had read all."""
    logs = MemoryLogs(STREAMS)
    await say(logs, commit(10, 0))
    log, arrives = logs.stream(STREAMS.snapshots), asyncio.Event()
    on_time = log.follow

    async def late(*, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        async for record in on_time(start=start, subjects=subjects):
            if chunked_payload.version_of(record) > 10:
                await arrives.wait()
            yield record

    monkeypatch.setattr(log, "follow", late)
    edge = Edge(logs)
    async with edge.following():
        await eventually(lambda: edge.current, within=5, what="it has read all there is")
        await say(logs, commit(11, 10))
        await eventually(lambda: not edge.current, within=5, what="it knows that there is more")
        arrives.set()
        await eventually(lambda: edge.current, within=5, what="it has read all there is again")
        assert edge.fleet.version == 11
