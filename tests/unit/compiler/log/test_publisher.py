"""The shell: when commits are written, and when they are not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec
import pytest

from services.compiler.core.compiler import Compiler
from services.compiler.core.offline import compile_events
from services.compiler.log import publisher as publication
from services.compiler.log.keyframe_writer import KeyframePolicy
from services.compiler.log.publisher import Publisher
from services.compiler.log.snapshot_store import HistoryRetention, SnapshotStore
from services.compiler.mesh_state import MeshSettings
from shared.eventlog.epoch import new_epoch
from shared.eventlog.protocol import EMPTY, HEADER_BEGINS, HEADER_EPOCH_RECORDS, Draft
from shared.eventlog.trim_marker import with_marks
from shared.records import chunked_payload, events
from shared.records.events import Event
from shared.records.snapshot import Commit, Snapshot, decode_commit, encode_commit
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.unit.compiler import objects
from tests.waiting import eventually

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope(objects.CLUSTER)


async def write(logs: MemoryLogs, written: Sequence[Event], *, epoch: str = "", batch: bool = True) -> None:
    log = await logs.open(STREAMS.events)
    drafts = [
        Draft(subject=event.subject(STREAMS), payload=events.encode(event), headers={"traceparent": TRACE})
        for event in written
    ]
    for group in [drafts] if batch else [[draft] for draft in drafts]:
        tip = await log.tip(SCOPE)
        await log.append(group, scope=SCOPE, after=tip, epoch=epoch or ("" if tip != EMPTY else "e1"))
        epoch = ""


async def recorded() -> tuple[MemoryLogs, list[Event]]:
    """A log with the bookstore in it, and its events."""
    logs, mesh = MemoryLogs(STREAMS), objects.bookstore()
    await write(logs, mesh)
    return logs, mesh


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Running:
    def __init__(self, logs: MemoryLogs, publication: Publisher) -> None:
        self.logs = logs
        self.publication = publication
        self.ready: dict[str, tuple[bool, str]] = {}

    @property
    def published(self) -> Snapshot:
        return self.publication.snapshots.published

    async def reaches(self, version: int) -> None:
        await eventually(lambda: self.published.version == version, within=5, what=f"version {version} is published")

    async def is_ready(self) -> None:
        await eventually(lambda: self.ready.get("events", (False, ""))[0], within=5, what="it has caught up")


@contextlib.asynccontextmanager
async def running(
    logs: MemoryLogs,
    *,
    build: str = "b1",
    limits: KeyframePolicy | None = None,
    leads: Callable[[], bool] = lambda: True,
) -> AsyncGenerator[Running]:
    snapshots = SnapshotStore(await logs.open(STREAMS.snapshots), await logs.open(STREAMS.keyframes), STREAMS)
    ready: dict[str, tuple[bool, str]] = {}

    def set_ready(name: str, is_ready: bool, why: str) -> None:  # noqa: FBT001
        ready[name] = is_ready, why

    publication = Publisher(
        await logs.open(STREAMS.events),
        snapshots,
        scope=SCOPE,
        compiler=lambda: Compiler(MeshSettings(), build=build),
        ready=set_ready,
        limits=limits,
        leads=leads,
    )
    found = Running(logs, publication)
    found.ready = ready
    task = asyncio.create_task(publication.run())
    try:
        yield found
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def read_back(logs: MemoryLogs) -> Snapshot:
    snapshots = SnapshotStore(await logs.open(STREAMS.snapshots), await logs.open(STREAMS.keyframes), STREAMS)
    await snapshots.load()
    return snapshots.published


async def commits(logs: MemoryLogs) -> list[Commit]:
    assembler, found = chunked_payload.Assembler(), list[Commit]()
    async for record in logs.stream(STREAMS.snapshots).read():
        payload = assembler.feed(record)
        if payload is not None:
            found.append(decode_commit(payload))
    return found


def contents(snapshot: Snapshot) -> object:
    bodies = {identity: resource.body for identity, resource in snapshot.resources.items()}
    return bodies, snapshot.views, snapshot.proxies, snapshot.quarantine, snapshot.mesh_namespaces


async def test_what_is_published_is_the_compile_of_the_events() -> None:
    logs, mesh = await recorded()
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh))
    assert contents(await read_back(logs)) == contents(compile_events(mesh))


async def test_a_change_is_published_as_a_small_commit_with_its_cause_and_trace() -> None:
    logs, mesh = await recorded()
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh))
        size_before = compiler.publication.tally.bytes
        await write(logs, [objects.slices("store", "store-v1", {"v1-0": "10.244.2.1"}, unready=["v1-0"])])
        await compiler.reaches(len(mesh) + 1)
        assert compiler.publication.tally.bytes - size_before < 2000
        assert compiler.publication.tally.commits == 2


async def test_events_that_change_nothing_publish_nothing() -> None:
    logs, mesh = await recorded()
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh))
        await write(logs, [objects.namespace("elsewhere", mesh=None), objects.service("outside", "x", ip="10.96.7.7")])
        await write(logs, [objects.deleted("TrafficTarget", "store", "thief-v1")])
        await compiler.reaches(len(mesh) + 3)
        assert compiler.publication.tally.commits == 2


async def test_how_far_it_is_moves_also_by_events_that_change_nothing() -> None:
    logs, mesh = await recorded()
    leads = True
    async with running(logs, leads=lambda: leads) as compiler:
        await compiler.reaches(len(mesh))
        assert compiler.publication.reached == len(mesh)
        await write(logs, [objects.namespace("elsewhere", mesh=None)])
        await eventually(lambda: compiler.publication.reached == len(mesh) + 1, within=5, what="it is that far")
        assert compiler.published.version == len(mesh)
        leads = False
        await write(logs, [objects.namespace("elsewhere", mesh="other")])
        await eventually(lambda: compiler.publication.compiler.version == len(mesh) + 2, within=5, what="it is folded")
        assert compiler.publication.reached == len(mesh) + 1, "who does not publish says nothing of what is published"


async def test_a_restart_with_the_same_events_publishes_nothing() -> None:
    logs = MemoryLogs(STREAMS)
    await write(logs, objects.bookstore())
    async with running(logs) as compiler:
        await compiler.reaches(len(objects.bookstore()))
    before = await (await logs.open(STREAMS.snapshots)).bounds()
    keyframes = await (await logs.open(STREAMS.keyframes)).bounds()
    async with running(logs) as compiler:
        await compiler.is_ready()
        assert compiler.publication.tally.commits == 0
    assert await (await logs.open(STREAMS.snapshots)).bounds() == before
    assert await (await logs.open(STREAMS.keyframes)).bounds() == keyframes


async def test_another_build_waits_for_the_next_event_before_it_publishes() -> None:
    """Versions only grow, so the same version never gets other bytes."""
    logs, mesh = await recorded()
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh))
    async with running(logs, build="b2") as compiler:
        await compiler.is_ready()
        await write(logs, [objects.deleted("TrafficSplit", "store", "canary")])
        await compiler.reaches(len(mesh) + 1)
    assert (await read_back(logs)).build == "b2"


async def test_a_full_stream_of_commits_is_said_and_what_waits_is_published_once_there_is_room() -> None:
    """Fault 39."""
    logs, mesh = await recorded()
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh))
        assert "commits" not in compiler.ready
        snapshots = logs.stream(STREAMS.snapshots)
        snapshots.max_bytes = 1
        await write(logs, [objects.deleted("TrafficSplit", "store", "canary")])
        await eventually(lambda: "commits" in compiler.ready, within=5, what="it is said")
        assert compiler.ready["commits"][0] is False
        assert "the log is full" in compiler.ready["commits"][1]
        assert compiler.published.version == len(mesh)
        snapshots.max_bytes = 0
        await compiler.reaches(len(mesh) + 1)
        assert compiler.ready["commits"] == (True, "")


async def test_events_while_it_was_down_are_published_at_the_next_start() -> None:
    logs, mesh = await recorded()
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh))
    gone = objects.deleted("Pod", "store", "v2-0")
    await write(logs, [gone])
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh) + 1)
    assert contents(await read_back(logs)) == contents(compile_events([*mesh, gone]))


async def test_two_compilers_at_once_write_one_history() -> None:
    logs = MemoryLogs(STREAMS)
    mesh = objects.bookstore()
    async with running(logs) as one, running(logs) as other:
        await write(logs, mesh, batch=False)
        await write(logs, [objects.deleted("TrafficSplit", "store", "canary")])
        last = len(mesh) + 1
        await one.reaches(last)
        await other.reaches(last)
    assert contents(await read_back(logs)) == contents(
        compile_events([*mesh, objects.deleted("TrafficSplit", "store", "canary")])
    )


async def test_an_outage_of_the_log_is_waited_out() -> None:
    logs = MemoryLogs(STREAMS)
    mesh = objects.bookstore()
    await write(logs, mesh[:-1])
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh) - 1)
        logs.stream(STREAMS.snapshots).down()
        await write(logs, mesh[-1:])
        await eventually(lambda: compiler.publication.tally.events == len(mesh), within=5, what="the event is folded")
        assert compiler.published.version < len(mesh)
        logs.stream(STREAMS.snapshots).up()
        await compiler.reaches(len(mesh))


async def test_keyframes_let_readers_skip_the_commits_before() -> None:
    logs, mesh = await recorded()
    async with running(logs, limits=KeyframePolicy(commits=1)) as compiler:
        await compiler.reaches(len(mesh))
        await write(logs, [objects.deleted("TrafficSplit", "store", "canary")])
        await compiler.reaches(len(mesh) + 1)
        await eventually(lambda: compiler.publication.tally.keyframes == 2, within=5, what="a second keyframe")
    snapshots = logs.stream(STREAMS.snapshots)
    assert await snapshots.bounds() == (2, 2), "what lies before the first keyframe is forgotten"
    snapshots.lose(2)
    assert (await read_back(logs)).version == len(mesh) + 1


async def test_on_top_of_a_hole_nothing_is_published_until_a_new_epoch() -> None:
    """P11: a lost record may have taken a right away."""
    logs = MemoryLogs(STREAMS)
    mesh = objects.bookstore()
    await write(logs, mesh, batch=False)
    logs.stream(STREAMS.events).lose(5)
    async with running(logs) as compiler:
        await eventually(lambda: "lost" in compiler.ready["events"][1], within=5, what="the hole is seen")
        assert compiler.published.version == 0
        await write(logs, mesh[4:5], epoch="e2")
        await compiler.reaches(len(mesh) + 1)
    assert (await read_back(logs)).epoch == "e2"


async def test_a_log_that_lost_its_first_record_is_no_trimmed_one() -> None:
    """P11: what was lost may have been an object that lives, and a compiler that starts now never met it."""
    logs = MemoryLogs(STREAMS)
    mesh = objects.bookstore()
    await write(logs, mesh, epoch=with_marks("e1"), batch=False)
    logs.stream(STREAMS.events).lose(1)
    async with running(logs) as compiler:
        await eventually(lambda: "lost its beginning" in compiler.ready["events"][1], within=5, what="it is seen")
        assert compiler.published.version == 0
        await write(logs, mesh[1:2], epoch=with_marks("e2"))
        await compiler.reaches(len(mesh) + 1)


async def test_a_log_that_was_trimmed_is_compiled() -> None:
    logs = MemoryLogs(STREAMS)
    mesh = objects.bookstore()
    events_log = await logs.open(STREAMS.events)
    await write(logs, [*mesh, *mesh[:-1]], epoch=with_marks("e1"), batch=False)
    last = Draft(subject=mesh[-1].subject(STREAMS), payload=events.encode(mesh[-1]))
    marked = msgspec.structs.replace(last, headers={HEADER_BEGINS: str(len(mesh) + 1)})
    await events_log.append([marked], scope=SCOPE, after=await events_log.tip(SCOPE))
    await events_log.trim(before=len(mesh) + 1)
    async with running(logs) as compiler:
        await compiler.reaches(2 * len(mesh))
    assert contents(await read_back(logs)) == contents(compile_events(mesh))


async def test_a_broken_snapshot_log_is_followed_by_a_commit_that_stands_alone() -> None:
    logs, mesh = await recorded()
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh))
    logs.stream(STREAMS.snapshots).corrupt(1, b"nonsense")
    keyframes = logs.stream(STREAMS.keyframes)
    keyframes.corrupt(1, b"nonsense")
    await write(logs, [objects.deleted("TrafficSplit", "store", "canary")])
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh) + 1)
    assert contents(await read_back(logs)) == contents(
        compile_events([*mesh, objects.deleted("TrafficSplit", "store", "canary")])
    )


async def test_a_batch_is_published_whole() -> None:
    logs = MemoryLogs(STREAMS)
    mesh = objects.bookstore()
    versions: set[int] = set()
    async with running(logs) as compiler:
        await write(logs, mesh)
        await compiler.reaches(len(mesh))
        versions.add(compiler.publication.tally.commits)
    assert versions == {1}


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
async def test_an_event_that_no_build_can_have_written_is_skipped(payload: bytes) -> None:
    logs, mesh = await recorded()
    log = await logs.open(STREAMS.events)
    draft = Draft(subject=mesh[0].subject(STREAMS), payload=payload)
    await log.append([draft], scope=SCOPE, after=await log.tip(SCOPE))
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh))
        assert compiler.publication.tally.skipped == 1


async def test_a_standby_publishes_nothing_and_all_that_is_missing_when_it_leads() -> None:
    logs, mesh = await recorded()
    leads = False
    async with running(logs, leads=lambda: leads) as standby:
        await standby.is_ready()
        assert standby.published.version == 0
        async with running(logs) as leader:
            await leader.reaches(len(mesh))
        change = objects.slices("store", "store-v1", {"v1-0": "10.244.2.1"}, unready=["v1-0"])
        await write(logs, [change])
        leads = True
        standby.publication.wake()
        await standby.reaches(len(mesh) + 1)
        assert standby.publication.tally.commits == 1, "it continues from what the other published"
    assert contents(await read_back(logs)) == contents(compile_events([*mesh, change]))


async def test_two_compilers_that_both_believe_to_lead_make_one_history() -> None:
    logs = MemoryLogs(STREAMS)
    mesh = objects.bookstore()
    await write(logs, mesh, batch=False)
    async with running(logs) as one, running(logs) as two:
        changed = list(mesh)
        for address in range(1, 6):
            change = objects.answered_at(8080 + address)
            await write(logs, [change])
            changed.append(change)
            await asyncio.sleep(0)
        for compiler in (one, two):
            await eventually(
                lambda compiler=compiler: compiler.publication.compiler.version == len(changed),
                within=5,
                what="it folds all",
            )
        await eventually(
            lambda: max(one.published.version, two.published.version) == len(changed), within=5, what="all is published"
        )
    assert contents(await read_back(logs)) == contents(compile_events(changed))


async def test_the_past_is_forgotten_behind_a_keyframe_and_the_present_is_not() -> None:
    logs = MemoryLogs(STREAMS)
    mesh = objects.bookstore()
    changed = list(mesh)
    await write(logs, mesh)
    async with running(
        logs, limits=KeyframePolicy(commits=2, kept=HistoryRetention(seconds=0, keyframes=2))
    ) as compiler:
        await compiler.reaches(len(mesh))
        for address in range(1, 12):
            changed.append(objects.answered_at(8080 + address))
            await write(logs, changed[-1:])
            await compiler.reaches(len(changed))
        await eventually(lambda: compiler.publication.tally.keyframes >= 5, within=5, what="keyframes are written")
    keyframes, commits = logs.stream(STREAMS.keyframes), logs.stream(STREAMS.snapshots)
    assert [record.batch[0] async for record in keyframes.read()].count(1) == 1, "the window is nothing"
    first, last = await commits.bounds()
    assert 1 < first <= last < first + 4
    assert contents(await read_back(logs)) == contents(compile_events(changed))
    newest = await keyframes.last(STREAMS.keyframe_subject)
    assert newest is not None
    keyframes.corrupt(newest.sequence, b"#")
    async with running(logs) as again:
        await again.is_ready()
        assert contents(again.published) == contents(compile_events(changed)), "without a keyframe it is made anew"


async def test_half_an_epoch_is_never_published() -> None:
    """P7: an epoch of more than one batch would else take away what its later batches hold."""
    logs, mesh = await recorded()
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh))
        log = await logs.open(STREAMS.events)
        drafts = [Draft(subject=event.subject(STREAMS), payload=events.encode(event)) for event in mesh]
        drafts[0] = Draft(drafts[0].subject, drafts[0].payload, headers={HEADER_EPOCH_RECORDS: str(len(mesh))})
        tip = await log.append(drafts[:3], scope=SCOPE, after=await log.tip(SCOPE), epoch="e2")
        await eventually(lambda: compiler.publication.compiler.version == tip.sequence, within=5, what="it is folded")
        assert compiler.published.version == len(mesh)
        await log.append(drafts[3:], scope=SCOPE, after=tip)
        await eventually(
            lambda: compiler.publication.compiler.version == 2 * len(mesh), within=5, what="the epoch is complete"
        )
        await write(logs, [objects.deleted("TrafficSplit", "store", "canary")])
        await compiler.reaches(2 * len(mesh) + 1)
    _, epoch, change = await commits(logs)
    assert (epoch.version, epoch.epoch) == (2 * len(mesh), "e2")
    assert not [*epoch.resources, *epoch.retired, *epoch.views, *epoch.proxies], "it says what the old one said"
    assert change.version == 2 * len(mesh) + 1


async def test_what_vanished_while_the_log_was_broken_does_not_live_on_in_the_compiler() -> None:
    """P6: a right that was taken away in the lost part is gone with the new epoch."""
    logs, mesh = await recorded()
    left = [event for event in mesh if event.kind != "TrafficTarget"]
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh))
        await write(logs, left, epoch="e2")
        await compiler.reaches(len(mesh) + len(left))
        assert contents(await read_back(logs)) == contents(compile_events(left))


async def test_a_leader_with_nothing_to_do_says_again_what_the_log_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication, "GLANCE", 0.02)
    logs, mesh = await recorded()
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh))
        change = objects.answered_at(8081)
        await write(logs, [change])
        await compiler.reaches(len(mesh) + 1)
        logs.stream(STREAMS.snapshots).roll_back(1)

        async def again() -> bool:
            return contents(await read_back(logs)) == contents(compile_events([*mesh, change]))

        await eventually(again, within=5, what="the lost version is there again")


async def test_a_lost_commit_that_a_keyframe_holds_is_said_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Simulation, seed 6241: an edge that had not read it yet waited for the next change, at the version before."""
    monkeypatch.setattr(publication, "GLANCE", 0.02)
    logs, mesh = await recorded()
    async with running(logs, limits=KeyframePolicy(commits=1)) as compiler:
        await compiler.reaches(len(mesh))
        await write(logs, [objects.answered_at(8081)])
        snapshots = compiler.publication.snapshots
        await eventually(lambda: snapshots.keyframe_version > len(mesh), within=5, what="there is a keyframe of it")
        log = logs.stream(STREAMS.snapshots)
        log.lose(log.sequences[-1])

        async def said() -> bool:
            return (await commits(logs))[-1].version > len(mesh)

        await eventually(said, within=5, what="the commits lead to it again")
    again = (await commits(logs))[-1]
    assert (again.version, again.parent) == (len(mesh) + 1, 0), "the same version, whole: who holds it need not change"
    assert again == compiler.published.keyframe()


async def test_what_is_said_again_while_the_events_of_it_are_still_on_their_way_is_not_taken_for_what_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Simulation, a leader that does not give up its lease, seed 119: what had changed and changed back stayed."""
    monkeypatch.setattr(publication, "GLANCE", 0.02)
    mesh = objects.bookstore()
    before, after = (objects.answered_at(8080 + number) for number in (1, 2))
    elsewhere = MemoryLogs(STREAMS)
    await write(elsewhere, [*mesh, before, after])
    async with running(elsewhere) as compiler:
        await compiler.reaches(len(mesh) + 2)
        ahead = compiler.published.keyframe()
    logs = MemoryLogs(STREAMS)
    subject = STREAMS.keyframe_subject
    drafts = chunked_payload.split(encode_commit(ahead), subject, version=ahead.version, epoch=ahead.epoch)
    await logs.stream(STREAMS.keyframes).append(drafts, scope=subject, after=EMPTY, epoch="k")
    await write(logs, [*mesh, before])
    async with running(logs) as compiler:
        await compiler.reaches(ahead.version)

        async def said() -> bool:
            return [commit.version for commit in await commits(logs)] == [ahead.version]

        await eventually(said, within=5, what="the keyframe's version is said")
        await write(logs, [after, before])
        await compiler.reaches(ahead.version + 1)
    assert contents(await read_back(logs)) == contents(compile_events([*mesh, before]))


async def test_a_lost_commit_that_changed_back_meanwhile_is_followed_by_one_that_says_so() -> None:
    """Simulation, seed 6355: nothing differed from what was left, and edges that held what was lost kept it."""
    logs = MemoryLogs(STREAMS)
    mesh = objects.bookstore()
    before, after = (objects.answered_at(8080 + number) for number in (1, 2))
    await write(logs, [*mesh, before])
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh) + 1)
        await write(logs, [after])
        await compiler.reaches(len(mesh) + 2)
    log = logs.stream(STREAMS.snapshots)
    log.lose(log.sequences[-1])
    await write(logs, [before])
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh) + 3)
    said = (await commits(logs))[-1]
    assert (said.version, said.parent) == (len(mesh) + 3, len(mesh) + 1)
    assert not [*said.resources, *said.retired, *said.views, *said.proxies]


async def test_what_only_this_compiler_knows_to_be_lost_is_outdone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream was rolled back, so that nothing in it tells; the version that was lost must not be the highest."""
    monkeypatch.setattr(publication, "GLANCE", 0.02)
    logs = MemoryLogs(STREAMS)
    mesh = objects.bookstore()
    before, after = (objects.answered_at(8080 + number) for number in (1, 2))
    await write(logs, [*mesh, before])
    leads = True
    async with running(logs, leads=lambda: leads) as compiler:
        await compiler.reaches(len(mesh) + 1)
        await write(logs, [after])
        await compiler.reaches(len(mesh) + 2)
        leads = False
        logs.stream(STREAMS.snapshots).roll_back(1)
        await write(logs, [before])
        await eventually(lambda: compiler.publication.compiler.version == len(mesh) + 3, within=5, what="it is folded")
        leads = True
        compiler.publication.wake()
        await compiler.reaches(len(mesh) + 3)
    assert (await commits(logs))[-1].version == len(mesh) + 3


@pytest.mark.parametrize("later", [True, False])
async def test_after_everything_was_lost_at_once_a_later_epoch_has_smaller_versions(later: bool) -> None:  # noqa: FBT001
    """Simulation, seed 6864: it waited until the new log was as long as the old one, which in a quiet mesh is never."""
    logs = MemoryLogs(STREAMS)
    mesh = objects.bookstore()
    left = [event for event in mesh if event.kind != "TrafficTarget"]
    await write(logs, mesh, epoch=new_epoch(1_800_000_000))
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh))
        await write(logs, [objects.answered_at(8081)])  # what arrives shows that it follows
        await compiler.reaches(len(mesh) + 1)
        for stream in (STREAMS.snapshots, STREAMS.keyframes, STREAMS.events):
            logs.stream(stream).recreate()
        await write(logs, left, epoch=new_epoch(1_800_000_001 if later else 1_799_999_999))
        await eventually(lambda: compiler.publication.compiler.version == len(left), within=5, what="it is folded")
        await compiler.is_ready()
        assert [commit.version for commit in await commits(logs)] == ([len(left)] if later else [])


async def test_a_leader_writes_another_keyframe_when_the_newest_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulation, seed 342: commits behind it were forgotten, so whoever started anew came to nothing."""
    monkeypatch.setattr(publication, "GLANCE", 0.02)
    logs, mesh = await recorded()
    async with running(logs) as compiler:
        await compiler.reaches(len(mesh))
        await eventually(lambda: compiler.publication.snapshots.keyframe_version, within=5, what="there is a keyframe")
        logs.stream(STREAMS.keyframes).recreate()

        async def again() -> bool:
            return (await logs.stream(STREAMS.keyframes).bounds())[1] > 0

        await eventually(again, within=5, what="another keyframe is written")


async def test_a_leader_notices_damage_that_only_a_newcomer_would_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulation, seed 195: a changed commit between the newest keyframe and the end."""
    monkeypatch.setattr(publication, "GLANCE", 0.02)
    logs, mesh = await recorded()
    async with running(logs, limits=KeyframePolicy(scrub=0.05)) as compiler:
        await compiler.reaches(len(mesh))
        for number in (1, 2):
            await write(logs, [objects.answered_at(8080 + number)])
            await compiler.reaches(len(mesh) + number)
        log = logs.stream(STREAMS.snapshots)
        log.corrupt(log.sequences[-2], b"{}")

        async def whole() -> bool:
            return contents(await read_back(logs)) == contents(compiler.published)

        await eventually(whole, within=5, what="a newcomer comes to the present again")
