"""A writer that looks after the log between two rounds, and finds it damaged: nothing that was true is lost by that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from services.ingestor.core.observations import KindListed, ObjectUpdated, Projected
from services.ingestor.log.event_writer import EventWriter, WriterPolicy
from services.ingestor.log.round_appender import Identifiers
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import HEADER_EPOCH_RECORDS, Draft
from shared.records import events
from tests.unit.ingestor.objects import projected
from tests.unit.ingestor.rig import STREAMS
from tests.waiting import eventually


class Glancing:
    """A writer whose reflectors are the test, and whose clock stands still until the test moves it."""

    def __init__(self, log: MemoryLog, *, scrub: float = 60.0) -> None:
        self.now = 0.0
        self.log = log
        self.living: tuple[Projected, ...] = ()
        self.listed_at = 10
        self._answers: set[asyncio.Task[None]] = set()
        self.writer = EventWriter(
            log,
            cluster="c1",
            streams=STREAMS,
            kinds=["Pod"],
            clock=lambda: self.now,
            ids=Identifiers(new_epoch=lambda: f"e{self.listed_at}", new_traceparent=lambda: ""),
            reflectors=self,
            policy=WriterPolicy(glance=60.0, scrub=scrub),
        )

    def relist(self, _kind: str, *, confirming: bool) -> None:  # noqa: ARG002 (a protocol)
        """See `Reflectors`."""
        self.list()

    def list(self) -> None:
        """Answer with a list of what lives."""
        listed = KindListed(kind="Pod", resource_version=str(self.listed_at), objects=self.living)
        self._answers.add(asyncio.get_running_loop().create_task(self.writer.put(listed)))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[Glancing]:
        """Run the writer, from its first list on."""
        task = asyncio.create_task(self.writer.run())
        self.list()
        try:
            await eventually(lambda: "Pod" in self.writer.settled, within=5, what="its first list is decided")
            yield self
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def write(self, item: Projected) -> None:
        """Hand over a change and wait until it stands in the log."""
        await self.writer.put(ObjectUpdated(item))

        await self.says(lambda names: item.name.name in names, what=f"{item.name} is written")

    async def says(self, right: Callable[[set[str]], bool], *, what: str) -> None:
        """Wait until the living objects of the newest epoch are right."""

        async def probe() -> bool:
            return right(await living(self.log))

        await eventually(probe, within=5, what=what)


async def living(log: MemoryLog) -> set[str]:
    """Names of what lives, by the newest epoch alone: what stands before it may be damaged."""
    epoch = (await log.tip(STREAMS.cluster_scope("c1"))).epoch
    found: set[str] = set()
    async for record in log.read():
        if record.epoch == epoch:
            event = events.decode(record.payload)
            (found.discard if event.operation == events.DELETED else found.add)(event.name)
    return found


async def test_news_from_before_a_new_epoch_is_not_written_after_its_lists() -> None:
    """Simulation, seed 1002: an observation taken just before an inspection found damage outlived its object."""
    async with Glancing(MemoryLog()).running() as glancing:
        first = projected("first", rv=11)
        await glancing.write(first)
        glancing.log.corrupt(1, b"{}")
        # The next fact is taken when a look at the log is due; by the time of the list that follows it is the past.
        glancing.now = 100.0
        glancing.living, glancing.listed_at = (first,), 30
        await glancing.writer.put(ObjectUpdated(projected("gone", rv=20)))
        await eventually(lambda: glancing.writer.counts.epochs == 2, within=5, what="a new epoch begins")
        await glancing.write(projected("last", rv=31))
        assert await living(glancing.log) == {"first", "last"}


async def test_what_this_writer_has_written_itself_and_the_log_has_lost_is_said_again() -> None:
    """Simulation, seed 4507: a look that read the whole chain took what was left of it for all there had been."""
    async with Glancing(MemoryLog()).running() as glancing:
        items = [projected(name, rv=rv) for name, rv in (("a", 11), ("b", 12), ("c", 13))]
        for item in items:
            await glancing.write(item)
        glancing.living, glancing.listed_at = tuple(items), 14
        glancing.log.roll_back(1)
        glancing.now = 100.0
        glancing.writer.wake()
        await glancing.says(lambda names: names == {"a", "b", "c"}, what="the log says again what it lost")
        assert glancing.writer.counts.epochs == 2


async def begin_by_another_hand(log: MemoryLog) -> None:
    """The first of two records of an epoch, both of which another leader meant to write."""
    scope = STREAMS.cluster_scope("c1")
    record = await log.at(1)
    assert record is not None
    begun = Draft(subject=record.subject, payload=record.payload, headers={HEADER_EPOCH_RECORDS: "2"})
    await log.append([begun], scope=scope, after=await log.tip(scope), epoch="of-another")


async def test_an_epoch_that_another_leader_has_begun_is_not_filled_up_with_what_this_one_knows() -> None:
    """Simulation, seed 7759: its announced records came together from two views, in the midst of a batch."""
    async with Glancing(MemoryLog()).running() as glancing:
        first, second = projected("first", rv=11), projected("second", rv=12)
        await glancing.write(first)
        await begin_by_another_hand(glancing.log)
        glancing.living, glancing.listed_at = (first, second), 30
        await glancing.write(second)
        assert (await glancing.log.tip(STREAMS.cluster_scope("c1"))).epoch != "of-another"
        assert await living(glancing.log) == {"first", "second"}


async def test_an_epoch_that_another_leader_has_left_unfinished_is_replaced_at_the_next_look() -> None:
    async with Glancing(MemoryLog(), scrub=1000.0).running() as glancing:
        first = projected("first", rv=11)
        await glancing.write(first)
        await begin_by_another_hand(glancing.log)
        glancing.living, glancing.listed_at = (first,), 30
        glancing.now = 100.0
        glancing.writer.wake()
        await eventually(lambda: glancing.writer.counts.epochs == 2, within=5, what="a new epoch begins")
        assert await living(glancing.log) == {"first"}
