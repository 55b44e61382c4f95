"""One leader at a time, a successor soon; the same on both implementations of the log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from shared.eventlog.protocol import EventLog, Logs
from shared.lease import Lease
from shared.subjects import Streams
from tests.waiting import eventually

TTL = 0.6


class Replica:
    """One replica that campaigns; `kill` ends it as SIGKILL would."""

    def __init__(self, log: EventLog, streams: Streams, instance: str, *, ttl: float = TTL) -> None:
        self.changes = 0
        self.lease = Lease(log, subject=streams.lease_subject("compiler"), instance=instance, ttl=ttl)
        self.lease.changed = self._changed
        self.lease.campaign()
        self.task = asyncio.create_task(self.lease.run())

    def _changed(self) -> None:
        self.changes += 1

    async def kill(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


@contextlib.asynccontextmanager
async def replicas(logs: Logs, streams: Streams, *names: str) -> AsyncGenerator[list[Replica]]:
    log = await logs.open(streams.leases)
    found = [Replica(log, streams, name) for name in names]
    try:
        yield found
    finally:
        for replica in found:
            await replica.kill()


async def leader(found: list[Replica], *, within: float = 5.0) -> Replica:
    return await eventually(
        lambda: next((replica for replica in found if replica.lease.held), None), within=within, what="one leads"
    )


async def test_exactly_one_of_three_leads(logs: Logs, streams: Streams) -> None:
    async with replicas(logs, streams, "a", "b", "c") as three:
        first = await leader(three)
        end = asyncio.get_running_loop().time() + 2 * TTL
        while asyncio.get_running_loop().time() < end:
            assert [replica for replica in three if replica.lease.held] == [first]
            await asyncio.sleep(0.02)


async def test_a_killed_leader_is_replaced_when_its_lease_has_run_out(logs: Logs, streams: Streams) -> None:
    async with replicas(logs, streams, "a", "b") as two:
        first = await leader(two)
        other = next(replica for replica in two if replica is not first)
        began = asyncio.get_running_loop().time()
        await first.kill()
        await leader([other])
        took = asyncio.get_running_loop().time() - began
        assert TTL / 4 < took < TTL + 0.5


async def test_a_lease_that_is_given_back_is_taken_at_once(logs: Logs, streams: Streams) -> None:
    async with replicas(logs, streams, "a", "b") as two:
        first = await leader(two)
        other = next(replica for replica in two if replica is not first)
        await eventually(lambda: other.lease.holder, within=5, what="the standby knows the leader")
        began = asyncio.get_running_loop().time()
        await first.lease.release()
        assert not first.lease.held
        await leader([other])
        assert asyncio.get_running_loop().time() - began < 0.2


async def test_a_successor_in_the_same_pod_does_not_wait(logs: Logs, streams: Streams) -> None:
    log = await logs.open(streams.leases)
    before = Replica(log, streams, "pod-1", ttl=30)
    await leader([before])
    await before.kill()
    after = Replica(log, streams, "pod-1", ttl=30)
    try:
        await leader([after], within=2)
    finally:
        await after.kill()


async def test_two_processes_of_one_name_do_not_take_turns(logs: Logs, streams: Streams) -> None:
    """A mistake of settings costs one change of leader, not an endless quarrel."""
    async with replicas(logs, streams, "same", "same") as two:
        await leader(two)
        await eventually(lambda: sum(replica.changes for replica in two) >= 1, within=5, what="somebody leads")
        await asyncio.sleep(3 * TTL)
        assert sum(replica.lease.held for replica in two) == 1
        assert sum(replica.changes for replica in two) <= 4


async def test_a_replica_that_is_not_warm_does_not_lead(logs: Logs, streams: Streams) -> None:
    cold = Lease(await logs.open(streams.leases), subject=streams.lease_subject("compiler"), instance="cold", ttl=TTL)
    task = asyncio.create_task(cold.run())
    try:
        async with replicas(logs, streams, "warm") as (warm,):
            await leader([warm])
            assert not cold.held
            assert await eventually(lambda: cold.holder, within=5, what="it watches all the same") == "warm"
    finally:
        task.cancel()
        await asyncio.wait({task})
