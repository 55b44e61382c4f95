"""A lease tells whoever asks it of every change, also of one that time alone made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import Checkpoint, Draft
from shared.service.lease import Lease, tenure_in
from tests.waiting import eventually

TTL = 0.5


class SlowLog(MemoryLog):
    """A log whose appends arrive when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    async def append(self, drafts: Sequence[Draft], *, scope: str, after: Checkpoint, epoch: str = "") -> Checkpoint:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        return await super().append(drafts, scope=scope, after=after, epoch=epoch)


async def test_who_stood_by_while_a_renewal_was_late_is_told_that_it_leads_again() -> None:
    """The lead ends by time while the renewal is under way; it arrives in time to go on, and nobody else led."""
    log, now, told = SlowLog(), 0.0, list[bool]()
    lease = Lease(log, subject="lease", instance="a", ttl=TTL, clock=lambda: now)
    lease.changed = lambda: told.append(lease.held)
    lease.campaign()
    task = asyncio.create_task(lease.run())
    try:
        await eventually(lambda: told == [True], within=5, what="it leads")
        log.gate.clear()
        now = 0.8 * TTL
        await eventually(lambda: log.waiting, within=5, what="a renewal is under way")
        now = 1.2 * TTL
        assert not lease.held
        log.gate.set()
        await eventually(lambda: lease.held, within=5, what="it leads again")
        assert told == [True, False, True]
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_renewal_says_how_far_the_work_has_come() -> None:
    log, reached = MemoryLog(), 7
    lease = Lease(log, subject="leases.x", instance="a", ttl=0.1)
    lease.reached = lambda: reached
    lease.campaign()

    async def said() -> int:
        record = await log.last("leases.x")
        tenure = tenure_in(record) if record is not None else None
        return tenure.reached if tenure is not None else 0

    async def says(number: int) -> bool:
        return await said() == number

    task = asyncio.create_task(lease.run())
    await eventually(lambda: says(7), within=5, what="it is said")
    reached = 9
    await eventually(lambda: says(9), within=5, what="the next renewal says more")
    await lease.release()
    assert await said() == 0, "who gives it back says nothing"
    task.cancel()
    await asyncio.wait({task})


async def test_who_stands_aside_gives_the_lease_to_another_at_once_and_takes_it_up_again_when_it_campaigns() -> None:
    log = MemoryLog()
    one, other = (Lease(log, subject="lease", instance=name, ttl=30.0) for name in ("a", "b"))
    one.campaign()
    tasks = [asyncio.create_task(one.run())]
    try:
        await eventually(lambda: one.held, within=5, what="the first leads")
        tasks.append(asyncio.create_task(other.run()))
        other.campaign()
        one.stand_aside()
        assert not one.held
        await eventually(lambda: other.held, within=5, what="the other leads, long before the lease runs out")
        one.campaign()
        other.stand_aside()
        await eventually(lambda: one.held, within=5, what="the first leads again")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_renewal_that_was_under_way_does_not_make_one_lead_who_stood_aside() -> None:
    log = SlowLog()
    lease, other = (Lease(log, subject="lease", instance=name, ttl=30.0) for name in ("a", "b"))
    log.gate.clear()
    lease.campaign()
    tasks = [asyncio.create_task(lease.run())]
    try:
        await eventually(lambda: log.waiting, within=5, what="it asks for the lease")
        lease.stand_aside()
        log.gate.set()
        tasks.append(asyncio.create_task(other.run()))
        other.campaign()
        await eventually(lambda: other.held, within=5, what="the other leads, long before the lease runs out")
        assert not lease.held
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
