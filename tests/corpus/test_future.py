"""An event of a newer build (fault 41): nothing is guessed, the fold stops there, and what was good stays."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from services.compiler.core.compiler import Compiler
from services.compiler.log.publisher import Publisher
from services.compiler.log.snapshot_store import SnapshotStore
from services.compiler.mesh_state import MeshSettings
from services.ingestor.core.object_index import ObjectIndex
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import EMPTY, HEADER_EPOCH_RECORDS, Draft
from shared.records import events, pins
from shared.records.snapshot import Snapshot
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.corpus import recording
from tests.unit.ingestor.rig import Rig
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope(recording.CLUSTER)
LINES = (Path(__file__).parent / "events-v1.jsonl").read_bytes().splitlines()
NEWER = events.SCHEMA + 1


def changed(line: bytes, **fields: object) -> bytes:
    return json.dumps({**json.loads(line), **fields}).encode()


def subject(line: bytes) -> str:
    return events.decode(line).subject(STREAMS)


def newer(**fields: object) -> tuple[str, bytes]:
    """The first recorded event in a newer form, where a newer build would write it: by its kind."""
    event = events.decode(LINES[0])
    kind = str(fields.get("kind", event.kind))
    place = STREAMS.event_subject(event.cluster, kind, event.namespace, event.name)
    return place, changed(LINES[0], **fields)


def of(operation: str) -> list[tuple[str, bytes]]:
    """Subject and payload of the recorded events of one operation."""
    return [(subject(line), line) for line in LINES if events.decode(line).operation == operation]


async def write(logs: MemoryLogs, written: list[tuple[str, bytes]]) -> None:
    log = await logs.open(STREAMS.events)
    tip = await log.tip(SCOPE)
    await log.append([Draft(*one) for one in written], scope=SCOPE, after=tip, epoch="e1" if tip == EMPTY else "")


async def published(logs: MemoryLogs) -> Snapshot:
    snapshots = SnapshotStore(await logs.open(STREAMS.snapshots), await logs.open(STREAMS.keyframes), STREAMS)
    await snapshots.load()
    return snapshots.published


class Running:
    """A compiler that reads the log, and what it says of itself."""

    def __init__(self, logs: MemoryLogs) -> None:
        self.ready, self.why = False, ""
        self.wants: list[bool] = []
        self.publication = Publisher(
            logs.stream(STREAMS.events),
            SnapshotStore(logs.stream(STREAMS.snapshots), logs.stream(STREAMS.keyframes), STREAMS),
            scope=SCOPE,
            compiler=lambda: Compiler(MeshSettings(cluster=recording.CLUSTER), build="b1"),
            ready=self._says,
            wants=self.wants.append,
        )

    def _says(self, _name: str, is_ready: bool, why: str) -> None:  # noqa: FBT001
        self.ready, self.why = is_ready, why

    async def reads_all(self) -> None:
        await eventually(lambda: self.ready, within=5, what="it has read the events")

    async def stops(self) -> None:
        await eventually(lambda: self.wants[-1:] == [False], within=5, what="it stops, and lets others lead")
        assert not self.ready
        assert self.why == self.publication.newer


@contextlib.asynccontextmanager
async def compiling(logs: MemoryLogs) -> AsyncGenerator[Running]:
    running = Running(logs)
    task = asyncio.create_task(running.publication.run())
    try:
        yield running
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.parametrize("line", LINES, ids=range(1, len(LINES) + 1))
def test_an_event_of_a_newer_schema_is_refused_and_says_what_it_needs(line: bytes) -> None:
    with pytest.raises(events.FutureEventError, match=f"has schema {NEWER}, .* up to {events.SCHEMA}; run"):
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


NEWER_FORMS = ({"schema": NEWER}, {"schema": NEWER, "operation": "moved"}, {"kind": "Teleport"})
"""A newer schema, one that looks otherwise, and a kind that this build does not know."""


@pytest.mark.parametrize("fields", NEWER_FORMS)
async def test_the_compiler_stops_at_it_and_the_last_good_version_stays(fields: dict[str, object]) -> None:
    """What was read before it is said; what comes after it is not in force; nobody ends, and others may lead."""
    logs = MemoryLogs(STREAMS)
    applied = of(events.APPLIED)[:-1]
    await write(logs, applied)
    async with compiling(logs) as compiler:
        await compiler.reads_all()
        good = await published(logs)
        assert good.version == len(applied)
        assert good.proxies
        assert compiler.wants == [True]
        await write(logs, [newer(**fields)])
        await compiler.stops()
        await write(logs, of(events.DELETED))
        assert compiler.why.startswith(f"needs a newer build: event {len(applied) + 1} ")
    async with compiling(logs) as successor:
        await successor.stops()
        assert (await published(logs)).keyframe() == good.keyframe(), "what comes after it is not in force either"


async def test_what_was_written_before_it_is_published_and_nothing_that_was_written_with_it() -> None:
    logs = MemoryLogs(STREAMS)
    applied = of(events.APPLIED)
    await write(logs, applied[:-2])
    await write(logs, [applied[-2], (applied[0][0], changed(LINES[0], schema=NEWER))])
    async with compiling(logs) as compiler:
        await compiler.stops()
        assert (await published(logs)).version == len(applied) - 2


async def test_half_of_a_beginning_is_never_published() -> None:
    """An epoch says again all that lives: up to a record that cannot be read it says that the rest is gone."""
    logs = MemoryLogs(STREAMS)
    applied = of(events.APPLIED)
    await write(logs, applied)
    async with compiling(logs) as compiler:
        await compiler.reads_all()
        good = await published(logs)
        log = logs.stream(STREAMS.events)
        half = [Draft(*one) for one in applied[: len(applied) // 2]]
        half[0] = msgspec.structs.replace(half[0], headers={HEADER_EPOCH_RECORDS: str(len(half) + 1)})
        await log.append(half, scope=SCOPE, after=await log.tip(SCOPE), epoch="e2")
        await write(logs, [(applied[0][0], changed(LINES[0], schema=NEWER))])
        await compiler.stops()
        assert (await published(logs)).keyframe() == good.keyframe()


async def test_the_compiler_goes_on_by_itself_when_the_log_begins_anew() -> None:
    logs = MemoryLogs(STREAMS)
    applied = of(events.APPLIED)
    await write(logs, [*applied, (applied[0][0], changed(LINES[0], schema=NEWER))])
    async with compiling(logs) as compiler:
        await compiler.stops()
        log = logs.stream(STREAMS.events)
        drafts = [Draft(*one) for one in applied]
        tip = await log.append(drafts, scope=SCOPE, after=await log.tip(SCOPE), epoch="e2")
        await compiler.reads_all()
        assert compiler.publication.newer == ""
        assert compiler.wants[-1:] == [True]
        assert (await published(logs)).version == tip.sequence


async def test_a_pin_of_what_a_newer_build_wrote_stops_the_compiler_too() -> None:
    logs = MemoryLogs(STREAMS)
    applied = of(events.APPLIED)
    await write(logs, applied)
    line = next(line for line in LINES if json.loads(line)["kind"] == "TrafficTarget")
    pin = pins.Pin(version=1, objects=[pins.PinnedObject(1, msgspec.Raw(changed(line, schema=NEWER)))])
    event = msgspec.structs.replace(
        events.decode(line),
        kind=pins.PIN_KIND,
        namespace="",
        name=pins.PIN_NAME,
        operation=events.APPLIED,
        object=events.encode_object(pin),
    )
    await write(logs, [(event.subject(STREAMS), events.encode(event))])
    async with compiling(logs) as compiler:
        await compiler.stops()
        assert f"event {len(applied) + 1} has schema {NEWER}" in compiler.why


async def test_the_ingestor_does_not_take_it_for_damage() -> None:
    """Damage makes a new epoch, which would overwrite what the newer build said."""
    logs = MemoryLogs(STREAMS)
    await write(logs, [(subject(LINES[0]), changed(LINES[0], schema=NEWER, operation="moved"))])
    record = await logs.stream(STREAMS.events).at(1)
    assert record is not None
    with pytest.raises(events.FutureEventError):
        ObjectIndex().fold(record)


class Ingesting:
    """A rig that says what it wants."""

    def __init__(self, server: ScriptedServer, log: MemoryLog) -> None:
        self.wants: list[bool] = []
        self.rig = Rig(server, log, warmed=lambda: self.wants.append(True), unfit=lambda: self.wants.append(False))

    async def stops(self) -> None:
        await eventually(lambda: self.wants[-1:] == [False], within=5, what="it stops, and lets others lead")
        assert self.rig.writer.trouble.startswith("needs a newer build: event ")


async def test_the_ingestor_writes_nothing_after_it_and_goes_on_when_the_log_begins_anew() -> None:
    server, log = ScriptedServer(), MemoryLog()
    scope = STREAMS.cluster_scope("c1")
    server.apply_pod("a")
    ingestor = Ingesting(server, log)
    async with ingestor.rig:
        await eventually(lambda: ingestor.rig.writer.counts.written == 1, within=5, what="the first pod is written")
        first = await log.at(1)
        assert first is not None
        newer = [Draft(first.subject, changed(first.payload, schema=NEWER, uid="other"))]
        tip = await log.append(newer, scope=scope, after=await log.tip(scope))
        server.apply_pod("b")
        await ingestor.stops()
        await asyncio.sleep(0.1)  # several turns of a standby
        assert await log.tip(scope) == tip, "nothing is written on top of what cannot be read"
        again = [Draft(first.subject, first.payload)]
        await log.append(again, scope=scope, after=tip, epoch="e2")
        await eventually(lambda: ingestor.wants[-1:] == [True], within=5, what="it wants to lead again")
        await eventually(lambda: ingestor.rig.writer.counts.written == 2, within=5, what="the second pod is written")
    assert ingestor.rig.writer.trouble == ""


async def test_an_ingestor_that_starts_before_it_stands_by() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a")
    line = changed(LINES[0], schema=NEWER, cluster="c1", kind="Pod", namespace="shop", name="a")
    draft = Draft(STREAMS.event_subject("c1", "Pod", "shop", "a"), line)
    tip = await log.append([draft], scope=STREAMS.cluster_scope("c1"), after=EMPTY, epoch="e1")
    ingestor = Ingesting(server, log)
    async with ingestor.rig:
        await ingestor.stops()
        assert await log.tip(STREAMS.cluster_scope("c1")) == tip
    assert True not in ingestor.wants
