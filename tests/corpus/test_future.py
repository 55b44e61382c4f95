"""An event of a newer build (fault 41): nothing is guessed, the fold stops there, and what was good stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.compiler.compiler import Compiler
from services.compiler.mesh import MeshSettings
from services.compiler.publication import Publication
from services.compiler.snapshots import Snapshots
from services.ingestor.book import Book
from shared import events
from shared.eventlog.memory import MemoryLogs
from shared.eventlog.protocol import EMPTY, Draft
from shared.snapshot import Snapshot
from shared.subjects import Streams
from tests.corpus import recording

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope(recording.CLUSTER)
LINES = (Path(__file__).parent / "events-v1.jsonl").read_bytes().splitlines()
NEWER = events.SCHEMA + 1


def changed(line: bytes, **fields: object) -> bytes:
    return json.dumps({**json.loads(line), **fields}).encode()


def subject(line: bytes) -> str:
    return events.decode(line).subject(STREAMS)


async def write(logs: MemoryLogs, written: list[tuple[str, bytes]]) -> None:
    log = await logs.open(STREAMS.events)
    tip = await log.tip(SCOPE)
    await log.append([Draft(*one) for one in written], scope=SCOPE, after=tip, epoch="e1" if tip == EMPTY else "")


async def published(logs: MemoryLogs) -> Snapshot:
    snapshots = Snapshots(await logs.open(STREAMS.snapshots), await logs.open(STREAMS.keyframes), STREAMS)
    await snapshots.load()
    return snapshots.published


class CaughtUpError(Exception):
    """The compiler has read all and waits."""


async def compile_all(logs: MemoryLogs) -> None:
    """A compiler that is started, and how it ends; `CaughtUpError` if it would go on."""

    def ready(_name: str, is_ready: bool, _why: str) -> None:  # noqa: FBT001
        if is_ready:
            raise CaughtUpError

    await Publication(
        await logs.open(STREAMS.events),
        Snapshots(await logs.open(STREAMS.snapshots), await logs.open(STREAMS.keyframes), STREAMS),
        scope=SCOPE,
        compiler=lambda: Compiler(MeshSettings(cluster=recording.CLUSTER), build="b1"),
        ready=ready,
    ).run()


@pytest.mark.parametrize("line", LINES, ids=range(1, len(LINES) + 1))
def test_an_event_of_a_newer_schema_is_refused_and_says_what_it_needs(line: bytes) -> None:
    with pytest.raises(events.FutureEventError, match=f"has schema {NEWER}, .* up to {events.SCHEMA}; run a newer"):
        events.decode(changed(line, schema=NEWER))


@pytest.mark.parametrize("fields", [{"operation": "moved"}, {"uid": None}, {"object": 7}, {"origin": "elsewhere"}])
def test_a_newer_schema_may_look_otherwise_and_is_no_damage(fields: dict[str, object]) -> None:
    """Damage is skipped by the compiler and mended by the ingestor: both would be a guess."""
    with pytest.raises(events.FutureEventError):
        events.decode(changed(LINES[0], schema=NEWER, **fields))


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"schema":1}', b'{"schema":"9"}', b"[9]", b'{"schema":9'])
def test_bytes_that_name_no_newer_schema_are_damage(payload: bytes) -> None:
    with pytest.raises(events.CorruptEventError):
        events.decode(payload)


@pytest.mark.parametrize("fields", [{}, {"operation": "moved"}])
async def test_the_compiler_stops_at_it_and_the_last_good_version_stays(fields: dict[str, object]) -> None:
    logs = MemoryLogs(STREAMS)
    applied = [(subject(line), line) for line in LINES if events.decode(line).operation == events.APPLIED][:-1]
    await write(logs, applied)
    with pytest.raises(CaughtUpError):
        await compile_all(logs)
    good = await published(logs)
    assert good.version == len(applied)
    assert good.proxies
    await write(logs, [(applied[0][0], changed(LINES[0], schema=NEWER, **fields))])
    await write(logs, [(subject(line), line) for line in LINES if events.decode(line).operation == events.DELETED])
    for _ in range(2):
        with pytest.raises(events.FutureEventError, match="run a newer build"):
            await compile_all(logs)
        assert (await published(logs)).keyframe() == good.keyframe(), "what comes after it is not in force either"


async def test_the_ingestor_does_not_take_it_for_damage() -> None:
    """Damage makes a new epoch, which would overwrite what the newer build said."""
    logs = MemoryLogs(STREAMS)
    await write(logs, [(subject(LINES[0]), changed(LINES[0], schema=NEWER, operation="moved"))])
    record = await (await logs.open(STREAMS.events)).at(1)
    assert record is not None
    with pytest.raises(events.FutureEventError):
        Book().fold(record)
