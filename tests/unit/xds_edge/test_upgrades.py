"""Edges and compilers of different builds: what an edge makes of commits that are newer or older than itself."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

from services.xds_edge.snapshot import snapshot_follower
from shared.eventlog.protocol import EMPTY
from shared.records import chunked_payload
from shared.records.snapshot import CDS, FORMAT, Commit, FutureSnapshotError, Resource, decode_commit, encode_commit
from shared.streams.memory import MemoryLogs
from shared.timing.backoff import Backoff
from tests.unit.xds_edge.snapshot.test_snapshot_follower import STREAMS, Edge, commit, say
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that take seconds in life take hundredths here."""
    monkeypatch.setattr(snapshot_follower, "TIP_CHECK", 0.02)
    monkeypatch.setattr(snapshot_follower, "GAP_LOOK", 0.02)
    monkeypatch.setattr(snapshot_follower, "_DAMAGED", Backoff(first=0.01, longest=10.0))
    monkeypatch.setattr(snapshot_follower, "_UNREACHABLE", Backoff(first=0.01, longest=0.4))


def fields(told: Commit) -> dict[str, Any]:
    """A commit as the map that stands in the log."""
    return msgspec.msgpack.decode(encode_commit(told))


def same_shape(told: Commit) -> bytes:
    return msgspec.msgpack.encode({**fields(told), "format": FORMAT + 1})


def another_shape(told: Commit) -> bytes:
    return msgspec.msgpack.encode({**fields(told), "format": FORMAT + 1, "views": [], "proxies": 7, "build": None})


async def append(logs: MemoryLogs, version: int, payload: bytes, *, keyframe: bool = False) -> None:
    subject = STREAMS.keyframe_subject if keyframe else STREAMS.snapshot_subject
    log = logs.stream(STREAMS.keyframes if keyframe else STREAMS.snapshots)
    after = await log.tip(subject)
    drafts = chunked_payload.split(payload, subject, version=version)
    await log.append(drafts, scope=subject, after=after, epoch="" if after != EMPTY else "chain")


def test_fields_that_a_newer_build_added_are_passed_over() -> None:
    held = Resource(CDS, "a", "1", b"body")
    told = msgspec.structs.replace(commit(10, 0), resources=[held])
    newer = fields(told)
    newer["novelty"] = {"deep": [1, 2]}
    newer["resources"] = [[*one, "novelty"] for one in newer["resources"]]
    assert decode_commit(msgspec.msgpack.encode(newer)) == told


def test_fields_that_an_older_build_did_not_have_yet_get_their_defaults() -> None:
    older = {name: fields(commit(10, 0))[name] for name in ("format", "version", "parent", "epoch", "build")}
    assert decode_commit(msgspec.msgpack.encode(older)) == Commit(
        format=FORMAT, version=10, parent=0, epoch=commit(10, 0).epoch, build="b1"
    )


@pytest.mark.parametrize("shape", [same_shape, another_shape])
def test_a_newer_format_is_refused_and_says_what_it_needs(shape: Any) -> None:
    with pytest.raises(
        FutureSnapshotError, match=f"version 10 has format {FORMAT + 1}, .* up to {FORMAT}; run a newer"
    ):
        decode_commit(shape(commit(10, 0)))


@pytest.mark.parametrize("shape", [same_shape, another_shape])
async def test_an_edge_before_a_newer_format_serves_what_it_holds_and_says_so_once(
    shape: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logs = MemoryLogs(STREAMS)
    await say(logs, commit(10, 0))
    edge = Edge(logs)
    with caplog.at_level(logging.ERROR):
        async with edge.following():
            await edge.holds(10)
            await append(logs, 11, shape(commit(11, 10)))
            await append(logs, 11, shape(commit(11, 0)), keyframe=True)
            await append(logs, 12, shape(commit(12, 11)))
            await append(logs, 12, shape(commit(12, 0)), keyframe=True)
            end = await logs.stream(STREAMS.snapshots).tip(STREAMS.snapshot_subject)
            await eventually(lambda: edge.follower.checkpoint == end, within=5, what="it has read on")
    needs = f"needs a newer build: version 11 has format {FORMAT + 1}, this build reads up to {FORMAT}"
    assert edge.fleet.stuck == f"{needs}; version 10 is served"
    assert (edge.versions, edge.fleet.version, edge.follower.restarts) == ([10], 10, 0), "it is no damage"
    assert [record.getMessage() for record in caplog.records] == [edge.fleet.stuck]
    assert edge.stuck == [edge.fleet.stuck]


@pytest.mark.parametrize("whole", [True, False])
async def test_it_goes_on_by_itself_when_a_version_comes_that_it_can_read(whole: bool) -> None:  # noqa: FBT001
    """After a rollback the older build publishes everything again: alone, or after a keyframe."""
    logs = MemoryLogs(STREAMS)
    await say(logs, commit(10, 0))
    edge = Edge(logs)
    async with edge.following():
        await edge.holds(10)
        await append(logs, 11, another_shape(commit(11, 10)))
        await eventually(lambda: edge.fleet.stuck, within=5, what="it is stuck")
        if whole:
            await say(logs, commit(13, 0))
        else:
            await say(logs, commit(12, 0), keyframe=True)
            await say(logs, commit(13, 12))
        await edge.holds(13)
        assert edge.fleet.stuck == ""
        assert edge.stuck[-1] == ""
        await say(logs, commit(14, 13))
        await edge.holds(14)


async def test_an_edge_that_starts_from_its_disk_before_a_newer_format_keeps_what_it_has() -> None:
    logs = MemoryLogs(STREAMS)
    await append(logs, 11, another_shape(commit(11, 0)), keyframe=True)
    await append(logs, 12, another_shape(commit(12, 11)))
    edge = Edge(logs, held=commit(10, 0))
    async with edge.following():
        await eventually(lambda: edge.fleet.stuck, within=5, what="it is stuck")
        assert edge.fleet.version == 10
