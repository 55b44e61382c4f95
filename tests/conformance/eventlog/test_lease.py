"""One leader at a time, a successor soon; the same on both implementations of the log."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator

import msgspec

from shared.eventlog.protocol import EventLog, Logs, Record
from shared.records.subjects import Streams
from shared.service.background_task import background_task
from shared.service.lease import Lease, Tenure
from tests.conformance.eventlog.conftest import Intrude
from tests.waiting import eventually

TTL = 0.6


class Replica:
    """One replica that campaigns; `kill` ends it as SIGKILL would."""

    def __init__(self, log: EventLog, streams: Streams, instance: str, *, ttl: float = TTL) -> None:
        self.lease = Lease(log, subject=streams.lease_subject("compiler"), instance=instance, ttl=ttl)
        self.lease.campaign()
        self.task = asyncio.create_task(self.lease.run())

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


async def test_foreign_records_take_the_lease_from_nobody(logs: Logs, streams: Streams, intrude: Intrude) -> None:
    """Neither from its holder, nor do they give it to a replica that starts and sees them first."""
    async with replicas(logs, streams, "a", "b") as found:
        first = await leader(found)
        end = asyncio.get_running_loop().time() + 3 * TTL
        while asyncio.get_running_loop().time() < end:
            for payload in (b"", b'{"type":"io.nats.jetstream.api.v1.stream_info_response"}'):
                await intrude(streams.leases, streams.lease_subject("compiler"), payload)
            if len(found) < 5:
                found.append(Replica(await logs.open(streams.leases), streams, f"late-{len(found)}"))
            assert [replica for replica in found if replica.lease.held] == [first]
            await asyncio.sleep(0.05)


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
    log, history = await logs.open(streams.leases), list[Record]()

    async def watch() -> None:
        async for record in log.follow(subjects=streams.lease_subject("compiler")):
            history.append(record)

    async with background_task(watch()), replicas(logs, streams, "same", "same") as two:
        await leader(two)
        await eventually(lambda: len(history) >= 8, within=20, what="the lease was renewed often")
    tenures = [(record.time / 1e9, msgspec.json.decode(record.payload, type=Tenure)) for record in history]
    # One that has run out may be taken by anybody, and on a slow machine it does.
    taken = [
        after.incarnation
        for (then, before), (now, after) in itertools.pairwise(tenures)
        if before.incarnation != after.incarnation and before.ttl and now - then < 0.9 * TTL
    ]
    assert len(taken) <= 1


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
