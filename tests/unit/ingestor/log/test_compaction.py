"""What lives is never forgotten, whatever is trimmed; and a log that went back goes on beyond where it was."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator

import pytest

from services.ingestor.log.chain_position import ChainPosition
from services.ingestor.log.compaction import Compactor
from services.ingestor.log.witness import CompiledPosition
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import HEADER_KEPT, Draft, LogUnavailableError, Record
from shared.eventlog.stream_spec import matches
from shared.eventlog.trim_marker import mark_of
from tests.unit.ingestor.log.test_event_writer import agrees
from tests.unit.ingestor.rig import STREAMS, Compiled, Rig, history, state
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually

SCOPE = STREAMS.cluster_scope("c1")


async def grown() -> tuple[ScriptedServer, MemoryLog]:
    """A log of many records, one a second, of few objects that live."""
    seconds = itertools.count(1)
    server, log = ScriptedServer(), MemoryLog(clock=lambda: next(seconds) * 1_000_000_000)
    async with Rig(server, log) as rig:
        for name in ("old", "older", "gone"):
            server.apply_pod(name)
        await agrees(log, server)
        for number in range(100):
            server.apply_pod("busy", ip=f"10.0.0.{number}")
            await eventually(lambda want=number + 3: rig.writer.counts.written > want, within=5, what="it is written")
            if number == 5:
                server.delete("Pod", "shop", "gone")
                await agrees(log, server)
        await agrees(log, server)
        assert rig.writer.counts.written > 50
    return server, log


async def test_what_lives_is_said_again_before_the_old_part_is_forgotten() -> None:
    server, log = await grown()
    before = await state(log)
    position = ChainPosition(log, SCOPE, retry=0.01)
    await position.recover()
    retention = Compactor(log, SCOPE, window=20, slack=40)
    await retention.run(position)
    first, last = await log.bounds()
    assert first == retention.trimmed_to > 50
    assert await state(log) == before, "and the chain holds"
    assert [record.headers.get(HEADER_KEPT) is not None async for record in log.read()].count(True) == 2
    assert position.tip == await log.tip(SCOPE)
    again = ChainPosition(log, SCOPE, retry=0.01)
    await again.recover()
    assert not again.broken
    async with Rig(server, log, name="b") as rig:
        await eventually(lambda: "Pod" in rig.writer.settled, within=5, what="it has listed")
        assert rig.writer.counts.written == 0, "nothing is missing"
    assert last < (await log.bounds())[1] + 3


async def trimmed(*, window: float = 20) -> tuple[ScriptedServer, MemoryLog]:
    """The same log after retention has been at work."""
    server, log = await grown()
    position = ChainPosition(log, SCOPE, retry=0.01)
    await position.recover()
    await Compactor(log, SCOPE, window=window, slack=40).run(position)
    return server, log


@pytest.mark.parametrize("lost", [1, 2, 10])
async def test_a_trimmed_log_that_loses_its_beginning_is_broken(lost: int) -> None:
    server, log = await trimmed()
    for sequence in log.sequences[:lost]:
        log.lose(sequence)
    position = await recovered(log)
    assert position.broken
    assert "was trimmed up to" in position.lost
    async with Rig(server, log, name="b") as rig:
        await eventually(lambda: rig.writer.counts.epochs, within=5, what="a new epoch begins")
        await agrees(log, server)
    assert not (await recovered(log)).broken


async def test_a_trimmed_log_that_loses_what_was_said_again_is_broken() -> None:
    """Simulation, seed 7286: after a rollback into the re-appended records no other object seemed to live."""
    server, log = await trimmed()
    kept = [record.sequence async for record in log.read() if HEADER_KEPT in record.headers]
    log.roll_back(kept[0])
    position = await recovered(log)
    assert position.broken
    async with Rig(server, log, name="b") as rig:
        await eventually(lambda: rig.writer.counts.epochs, within=5, what="a new epoch begins")
        await agrees(log, server)


async def test_a_log_that_was_never_trimmed_and_loses_its_first_record_is_broken() -> None:
    server, log = await grown()
    log.lose(log.sequences[0])
    position = await recovered(log)
    assert position.broken
    assert "no trim is on record" in position.lost
    async with Rig(server, log, name="b") as rig:
        await eventually(lambda: rig.writer.counts.epochs, within=5, what="a new epoch begins")
        await agrees(log, server)
    assert not (await recovered(log)).broken


async def test_a_log_is_whole_at_every_step_of_a_trim(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between any two steps, or NATS in the middle of a trim, leaves a log that no reader takes for broken."""
    _, log = await grown()
    position = ChainPosition(log, SCOPE, retry=0.01)
    await position.recover()
    steps = 0

    async def slowly(*, before: int, subjects: str = ">") -> None:
        nonlocal steps
        for sequence in [number for number in log.sequences if number < before]:
            assert matches(subjects, SCOPE)
            assert not (await recovered(log)).broken
            log.lose(sequence)
            steps += 1

    monkeypatch.setattr(log, "trim", slowly)
    await Compactor(log, SCOPE, window=20, slack=40).run(position)
    assert steps > 50
    assert not (await recovered(log)).broken


async def test_the_mark_stands_even_where_nothing_has_to_be_said_again() -> None:
    server, log = await trimmed()
    marks = [mark_of(record) async for record in log.read() if mark_of(record)]
    assert marks == [(await log.bounds())[0]]
    async with Rig(server, log, name="b") as rig:
        for name in ("old", "older", "busy"):
            server.apply_pod(name, ip="10.1.0.1")
        await agrees(log, server)
        for number in range(60):
            server.apply_pod("busy", ip=f"10.2.0.{number}")
            await eventually(lambda want=number + 3: rig.writer.counts.written > want, within=5, what="it is written")
    position = ChainPosition(log, SCOPE, retry=0.01)
    await position.recover()
    before = await state(log)
    await Compactor(log, SCOPE, window=62, slack=10).run(position)
    again = [mark_of(record) async for record in log.read() if mark_of(record)]
    assert again[-1] == (await log.bounds())[0] > marks[0]
    assert await state(log) == before
    assert not (await recovered(log)).broken


async def recovered(log: MemoryLog) -> ChainPosition:
    """Returns the position of an ingestor that starts now."""
    position = ChainPosition(log, SCOPE, retry=0.01)
    await position.recover()
    return position


async def test_a_trim_under_a_reader_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    _, log = await grown()
    leader = await recovered(log)
    read, trimmed_once = log.read, False

    async def overtaken(*, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        nonlocal trimmed_once
        async for record in read(start=start, subjects=subjects):
            if record.sequence > 3 and not trimmed_once:
                trimmed_once = True
                await Compactor(log, SCOPE, window=20, slack=40).run(leader)
                async for later in read(start=record.sequence, subjects=subjects):
                    yield later
                return
            yield record

    monkeypatch.setattr(log, "read", overtaken)
    assert not (await recovered(log)).broken
    assert trimmed_once


async def test_little_is_not_worth_trimming() -> None:
    _, log = await grown()
    position = ChainPosition(log, SCOPE, retry=0.01)
    await position.recover()
    bounds = await log.bounds()
    await Compactor(log, SCOPE, window=20, slack=1000).run(position)
    await Compactor(log, SCOPE, window=10_000, slack=10).run(position)
    assert await log.bounds() == bounds


async def test_a_log_that_ends_before_what_was_compiled_from_it_gets_a_new_epoch_beyond() -> None:
    """P3, P11: the log was rolled back while no ingestor ran; the version of the snapshot shows it."""
    server, log = await grown()
    end = (await log.bounds())[1]
    log.roll_back(20)

    async def witness() -> CompiledPosition:
        return CompiledPosition(end)

    async with Rig(server, log, name="b", witness=Compiled(witness)) as rig:
        await agrees(log, server)
        assert rig.writer.counts.epochs == 1
    assert (await log.bounds())[0] == end + 1
    assert len(await history(log)) == 3


async def test_what_is_written_and_compiled_while_a_standby_reads_is_no_sign_of_a_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, log = await grown()
    read = log.read
    draft = [Draft(record.subject, record.payload) async for record in read()][-1]

    async def overtaken(*, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        async for record in read(start=start, subjects=subjects):
            yield record
        await log.append([draft], scope=SCOPE, after=await log.tip(SCOPE))

    async def witness() -> CompiledPosition:
        return CompiledPosition((await log.bounds())[1])

    monkeypatch.setattr(log, "read", overtaken)
    position = ChainPosition(log, SCOPE, retry=0.01, witness=Compiled(witness))
    await position.recover()
    assert not position.broken


async def test_an_epoch_that_nobody_finished_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.ingestor.core.records.MAX_BATCH", 4)
    server, log = ScriptedServer(page=50), MemoryLog()
    for number in range(10):
        server.apply_pod(f"p{number}")
    async with Rig(server, log):
        await agrees(log, server)
    log.roll_back(6)
    async with Rig(server, log, name="b") as rig:
        await agrees(log, server)
        assert rig.writer.counts.epochs == 1


async def test_a_log_that_goes_away_while_it_is_read_leaves_the_book_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a later deletion would be taken for one of an unknown object."""
    _, log = await grown()
    position = ChainPosition(log, SCOPE, retry=0.01)
    await position.recover()
    before = position.index.counts()
    read = log.read

    async def interrupted(*, start: int = 1, subjects: str = ">") -> AsyncGenerator[Record]:
        async for record in read(start=start, subjects=subjects):
            if record.sequence > 3:
                raise LogUnavailableError("log/timeout", "gone")
            yield record

    monkeypatch.setattr(log, "read", interrupted)
    with pytest.raises(LogUnavailableError):
        await position.read_all()
    assert position.index.counts() == before
