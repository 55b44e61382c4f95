"""A pin outlives its log: a new epoch contains it before a compiler uses the epoch."""

from __future__ import annotations

import msgspec
import pytest

from cli.history.log_source import LogSource
from cli.history.pin import pin_to, unpin
from cli.history.timeline import Timeline
from cli.state.mesh_status import pinned
from services.compiler.core.compiler import Compiler
from services.compiler.mesh_state import MeshSettings
from services.ingestor.log.witness import StreamWitness
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import Draft, LogUnavailableError, epoch_records
from shared.records import events
from shared.records.pins import PIN_KIND
from shared.records.snapshot import Snapshot
from shared.records.subjects import escape
from shared.streams.memory import MemoryLogs
from tests.property.history.worlds import ABOUT, source_of
from tests.unit.ingestor.log.test_event_writer import agrees
from tests.unit.ingestor.rig import STREAMS, Rig
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually


async def pinned_mesh(server: ScriptedServer, logs: MemoryLogs) -> tuple[MemoryLog, LogSource]:
    """A mesh with a split that was made, and rolled back to before it."""
    log = logs.stream(STREAMS.events)
    server.apply_pod("web")
    async with Rig(server, log) as rig:
        await agrees(log, server)
        assert rig.writer.counts.epochs == 1
    source = await source_of(logs)
    source = msgspec.structs.replace(source, about=msgspec.structs.replace(ABOUT, cluster="c1"))
    await pin_to(Timeline(source), (await log.bounds())[1], "it was better before")
    assert "it was better before" in await pinned(source)
    return log, source


async def newest_epoch(log: MemoryLog) -> list[str]:
    records = [record async for record in log.read()]
    newest = [record for record in records if record.epoch == records[-1].epoch]
    assert epoch_records(newest[0]) == len(newest)
    return [events.decode(record.payload).kind for record in newest]


@pytest.mark.parametrize("how", ["damaged", "lost whole"])
async def test_a_new_epoch_is_pinned_as_the_one_before(how: str) -> None:
    server, logs = ScriptedServer(), MemoryLogs(STREAMS)
    log, source = await pinned_mesh(server, logs)
    if how == "damaged":
        log.corrupt(1, b"{}")
    else:
        log.recreate()
    async with Rig(server, log, name="b", witness=await StreamWitness.open(logs, STREAMS, "c1")) as rig:
        await eventually(lambda: rig.writer.counts.epochs, within=5, what="a new epoch begins")
        await eventually(lambda: "Pod" in rig.writer.settled, within=5, what="it is whole")
    assert PIN_KIND in await newest_epoch(log)
    assert "it was better before" in await pinned(source)


async def test_what_was_unpinned_stays_so() -> None:
    server, logs = ScriptedServer(), MemoryLogs(STREAMS)
    log, source = await pinned_mesh(server, logs)
    await unpin(source)
    log.recreate()
    async with Rig(server, log, name="b", witness=await StreamWitness.open(logs, STREAMS, "c1")) as rig:
        await eventually(lambda: "Pod" in rig.writer.settled, within=5, what="the epoch is whole")
    assert PIN_KIND not in await newest_epoch(log)
    assert not await pinned(source)


async def test_an_outage_between_an_epoch_and_its_pin_only_delays_it() -> None:
    """No compiler uses the epoch without the pin: the epoch declares one record more."""
    server, logs = ScriptedServer(), MemoryLogs(STREAMS)
    log, _ = await pinned_mesh(server, logs)
    log.recreate()
    tried = 0
    append = log.append

    async def flaky(drafts: list[Draft], **options: object) -> object:
        nonlocal tried
        if any(f".{escape(PIN_KIND)}." in draft.subject for draft in drafts) and (tried := tried + 1) < 4:
            raise LogUnavailableError("log/away", "is away")
        return await append(drafts, **options)  # type: ignore[arg-type]

    log.append = flaky  # type: ignore[method-assign]
    async with Rig(server, log, name="b", witness=await StreamWitness.open(logs, STREAMS, "c1")) as rig:
        await eventually(lambda: tried == 4, within=5, what="it is tried again")
        await eventually(lambda: "Pod" in rig.writer.settled, within=5, what="the epoch is whole")
    assert PIN_KIND in await newest_epoch(log)


async def test_a_copy_that_cannot_be_read_is_told_and_nothing_is_pinned(caplog: pytest.LogCaptureFixture) -> None:
    logs = MemoryLogs(STREAMS)
    await (await logs.open(STREAMS.pins)).publish(Draft(STREAMS.pin_subject("c1"), b"nonsense"))
    witness = await StreamWitness.open(logs, STREAMS, "c1")
    assert await witness.carried_over("e") == []
    assert "cannot be read" in caplog.text


async def test_a_pin_that_was_carried_is_in_force() -> None:
    """The compiler folds it as it folded the first one."""
    server, logs = ScriptedServer(), MemoryLogs(STREAMS)
    log, _ = await pinned_mesh(server, logs)
    log.recreate()
    async with Rig(server, log, name="b", witness=await StreamWitness.open(logs, STREAMS, "c1")) as rig:
        await eventually(lambda: "Pod" in rig.writer.settled, within=5, what="the epoch is whole")
    compiler = Compiler(MeshSettings(cluster="c1"))
    async for record in log.read():
        compiler.fold(events.decode(record.payload), record.sequence, epoch=record.epoch)
    commit = compiler.commit(Snapshot())
    assert commit is not None
    assert not [one for one in commit.quarantine or [] if one.code.startswith("pin/")]
