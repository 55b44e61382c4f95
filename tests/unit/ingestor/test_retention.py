"""What lives is never forgotten, whatever is trimmed; and a log that went back goes on beyond where it was."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from services.ingestor.retention import Retention
from services.ingestor.standing import Compiled, Standing
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import HEADER_KEPT, LogUnavailableError, Record
from tests.unit.ingestor.rig import STREAMS, Rig, history, state
from tests.unit.ingestor.scripted import ScriptedServer
from tests.unit.ingestor.test_writer import agrees
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
    standing = Standing(log, SCOPE, retry=0.01)
    await standing.recover()
    retention = Retention(log, SCOPE, window=20, slack=40)
    await retention.run(standing)
    first, last = await log.bounds()
    assert first == retention.trimmed_to > 50
    assert await state(log) == before, "and the chain holds"
    assert [record.headers.get(HEADER_KEPT) is not None async for record in log.read()].count(True) == 2
    assert standing.tip == await log.tip(SCOPE)
    again = Standing(log, SCOPE, retry=0.01)
    await again.recover()
    assert not again.broken
    async with Rig(server, log, name="b") as rig:
        await eventually(lambda: "Pod" in rig.writer.settled, within=5, what="it has listed")
        assert rig.writer.counts.written == 0, "nothing is missing"
    assert last < (await log.bounds())[1] + 3


async def test_little_is_not_worth_trimming() -> None:
    _, log = await grown()
    standing = Standing(log, SCOPE, retry=0.01)
    await standing.recover()
    bounds = await log.bounds()
    await Retention(log, SCOPE, window=20, slack=1000).run(standing)
    await Retention(log, SCOPE, window=10_000, slack=10).run(standing)
    assert await log.bounds() == bounds


async def test_a_log_that_ends_before_what_was_compiled_from_it_gets_a_new_epoch_beyond() -> None:
    """P3, P11: it went back while nobody looked; the version of the snapshot is the witness."""
    server, log = await grown()
    end = (await log.bounds())[1]
    log.roll_back(20)

    async def witness() -> Compiled:
        return Compiled(end)

    async with Rig(server, log, name="b", witness=witness) as rig:
        await agrees(log, server)
        assert rig.writer.counts.epochs == 1
    assert (await log.bounds())[0] == end + 1
    assert len(await history(log)) == 3


async def test_an_epoch_that_nobody_finished_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.ingestor.drafts.MAX_BATCH", 4)
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
    """Else a deletion that follows would be taken for news about nothing."""
    _, log = await grown()
    standing = Standing(log, SCOPE, retry=0.01)
    await standing.recover()
    before = standing.book.counts()
    read = log.read

    async def interrupted(*, start: int = 1, subjects: str = ">") -> AsyncIterator[Record]:
        async for record in read(start=start, subjects=subjects):
            if record.sequence > 3:
                raise LogUnavailableError("log/timeout", "gone")
            yield record

    monkeypatch.setattr(log, "read", interrupted)
    with pytest.raises(LogUnavailableError):
        await standing.read_all()
    assert standing.book.counts() == before
