"""One rule for epochs in every view of the log: what each fold makes of an epoch that begins, and of one that ended."""

from __future__ import annotations

import asyncio

from services.ingestor.core.object_index import ObjectIndex
from services.ingestor.status.ack_progress import AckProgress
from services.ingestor.status.condition_reporter import ConditionReporter
from services.ingestor.status.log_follower import StatusLogFollower
from services.ingestor.status.reports import ConditionReport, ObjectEvent, Outcome
from services.injector.log.namespace_follower import NamespaceFollower
from services.xds_edge.admission.token_issuers import IssuerFold, issuers_view
from shared.eventlog.fold import Epoch
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import Draft, Record
from shared.identity.service_account_tokens import TokenVerifier
from shared.records import chunked_payload
from shared.records.commits import CommitFold
from shared.records.snapshot import Commit, encode_commit
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.chained import write_chained
from tests.unit.ca.running import tasks
from tests.unit.identity.cluster import Cluster, write
from tests.waiting import eventually

STREAMS = Streams()
CLUSTER = Cluster()
OTHER = Cluster()
"""The same cluster with another key."""
SERVICE = CLUSTER.event("Service", "bookstore", "web", {})


def membership(log: MemoryLog) -> NamespaceFollower:
    return NamespaceFollower(log, streams=STREAMS, cluster=CLUSTER.name, mesh_namespace="meshlog-system")


async def test_membership_is_that_of_the_newest_epoch_and_a_log_that_went_back_is_read_again() -> None:
    log = MemoryLogs().stream(STREAMS.events)
    await write(log, [CLUSTER.namespace_event("shop"), CLUSTER.namespace_event("bank")])
    known = membership(log)
    async with tasks(known.run()):
        async with asyncio.timeout(5):
            await known.caught_up.wait()
        await write(log, [CLUSTER.namespace_event("shop")], epoch="epoch-2")
        await eventually(lambda: set(known.namespaces) == {"shop"}, within=5, what="a new epoch names shop alone")
        await write(log, [CLUSTER.namespace_event("bank")])
        await eventually(lambda: "bank" in known.namespaces, within=5, what="then bank")
        log.roll_back(3)
        await eventually(lambda: set(known.namespaces) == {"shop"}, within=5, what="bank was lost")
        await write(log, [CLUSTER.namespace_event("bank")])
        await eventually(lambda: "bank" in known.namespaces, within=5, what="and comes again")
    await write(log, [SERVICE], epoch="epoch-3")
    again = membership(log)
    async with tasks(again.run()), asyncio.timeout(5):
        await again.caught_up.wait()
        assert again.namespaces == {}, "the last records of both are of an epoch that ended"


async def test_keys_stay_in_force_in_a_new_epoch_but_an_edge_that_starts_takes_none_of_an_old_one() -> None:
    log = MemoryLogs().stream(STREAMS.events)
    await write(log, [CLUSTER.bookstore()[0]])
    assert CLUSTER.bookstore()[0].kind == "TokenIssuer"
    verifier, changes = TokenVerifier(), list[str]()
    known = IssuerFold(verifier, changed=lambda: changes.append("changed"))
    view = issuers_view(log, known, streams=STREAMS, cluster=CLUSTER.name)
    async with tasks(view.run()), asyncio.timeout(5):
        await view.caught_up.wait()
        await write(log, [SERVICE], epoch="epoch-2")
        assert known.known == {CLUSTER.name: CLUSTER.issuer}
        assert verifier.verify(CLUSTER.token()).cluster == CLUSTER.name
        late = IssuerFold(TokenVerifier(), changed=lambda: None)
        starting = issuers_view(log, late, streams=STREAMS, cluster=CLUSTER.name)
        async with tasks(starting.run()):
            await starting.caught_up.wait()
            assert late.known == {}
            await write(log, [OTHER.bookstore()[0]])
            for fold in (known, late):
                await eventually(lambda: fold.known == {CLUSTER.name: OTHER.issuer}, within=5, what="new keys")  # noqa: B023
    assert verifier.verify(OTHER.token()).cluster == CLUSTER.name
    assert len(changes) == 2


async def _written(_report: ConditionReport | ObjectEvent) -> Outcome:
    return Outcome.WRITTEN


def reporter(progress: AckProgress) -> ConditionReporter:
    return ConditionReporter(
        progress,
        ObjectIndex(),
        _written,
        _written,
        cluster="c1",
        kinds=[],
        mesh_namespace="m",
        now=lambda: "",
        clock=lambda: 0.0,
    )


def commit(version: int, *, parent: int = 0, subject: str = STREAMS.snapshot_subject) -> list[Draft]:
    value = Commit(format=1, version=version, parent=parent, epoch="e", build="b")
    return chunked_payload.split(encode_commit(value), subject, version=version)


async def test_after_the_loss_of_everything_reports_go_on_with_lower_versions() -> None:
    logs = MemoryLogs()
    snapshots, keyframes = logs.stream(STREAMS.snapshots), logs.stream(STREAMS.keyframes)
    progress = AckProgress(cluster="c1", kinds=[])
    hearing = StatusLogFollower(progress, reporter(progress), STREAMS, outage=0.01)
    async with tasks(hearing.follow_commits(snapshots, keyframes)):
        await write_chained(snapshots, *commit(100))
        await eventually(lambda: progress.version == 100, within=5, what="the first version")
        await write_chained(snapshots, *commit(3), epoch="e2")
        await write_chained(snapshots, *commit(4, parent=3))
        await eventually(lambda: progress.version == 4, within=5, what="versions of the new epoch")
        await write_chained(snapshots, *commit(4, parent=3))
        await write_chained(snapshots, *commit(9, parent=8))
        await write_chained(keyframes, *commit(10, subject=STREAMS.keyframe_subject))
        await write_chained(snapshots, *commit(12, parent=10))
        await eventually(lambda: progress.version == 12, within=5, what="a keyframe leads beyond a gap")


def test_a_commit_is_taken_once_and_damage_costs_that_commit_alone() -> None:
    taken: list[int] = []
    fold = CommitFold(lambda commit: taken.append(commit.version))
    sequence = 0

    def feed(version: int) -> None:
        nonlocal sequence
        for draft in commit(version):
            sequence += 1
            fold.fold(Record(draft.subject, sequence, draft.payload, 0, draft.headers))

    fold.reset(Epoch("c", "e1"))
    fold.begin(2)
    for version in (1, 2, 3, 3, 4):
        feed(version)
    assert taken == [3, 4]
    fold.reset(Epoch("c", "e1"))
    feed(4)
    assert taken == [3, 4], "the same epoch, read again"
    fold.reset(Epoch("c", "e2"))
    feed(1)
    assert taken == [3, 4, 1]
