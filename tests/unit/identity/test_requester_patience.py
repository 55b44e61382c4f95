"""How long a requester waits after a refusal: as the CA says, unless what it lacked has come."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import msgspec
import pytest

from shared.eventlog.protocol import Draft, Job
from shared.identity.spiffe import SpiffeId
from shared.records.certificate_records import SigningAnswer, decode_request, encode
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.chained import write_chained
from tests.unit.ca.running import requester, tasks
from tests.unit.identity.test_bundles import VALID
from tests.waiting import eventually

STREAMS = Streams()
BUYER = SpiffeId(trust_domain="cluster.local", namespace="bookstore", service_account="bookbuyer")
LATER = 300.0
"""Seconds that the CA says: no test waits so long."""


class Ca:
    """A CA that refuses everything, with the code that it is told."""

    def __init__(self, logs: MemoryLogs, code: str) -> None:
        self.asked = 0
        self._logs = logs
        self._code = code

    async def publish(self, serial: int) -> None:
        """A bundle."""
        bundle = msgspec.structs.replace(VALID, serial=serial)
        certs = self._logs.stream(STREAMS.certs)
        await write_chained(certs, Draft(STREAMS.bundle_subject("cluster.local"), encode(bundle)))

    async def run(self) -> None:
        """Refuse."""
        async for job in self._logs.stream(STREAMS.csrs).take("ca"):
            await self._refuse(job)

    async def _refuse(self, job: Job) -> None:
        request = decode_request(job.record.payload)
        answer = SigningAnswer(id=request.id, refused=self._code, retry_after=LATER)
        await self._logs.stream(STREAMS.certs).publish(
            Draft(STREAMS.issued_subject(request.requester, request.id), encode(answer))
        )
        await job.done()
        self.asked += 1


@contextlib.asynccontextmanager
async def refused(code: str) -> AsyncGenerator[Ca]:
    """A requester that was refused once, and a CA that has published another bundle since."""
    logs = MemoryLogs()
    ca = Ca(logs, code)
    await ca.publish(9)
    async with requester(logs) as asking, tasks(ca.run(), asking.request("token", BUYER, within=600)):
        await eventually(lambda: ca.asked, within=5, what="it was asked")
        await ca.publish(10)
        yield ca


async def test_whoever_used_an_old_bundle_asks_again_as_soon_as_there_is_another() -> None:
    async with refused("sealing/unknown-key") as ca:
        await eventually(lambda: ca.asked > 1, within=5, what="it asks again")


async def test_a_request_that_no_ca_answers_counts_as_waiting_and_one_that_is_given_up_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shared.identity.svid_requester.PATIENCE", 0.05)
    logs = MemoryLogs()
    await Ca(logs, "").publish(9)
    async with requester(logs) as asking:
        async with tasks(asking.request("token", BUYER, within=600)):
            assert asking.unanswered() == 0
            await eventually(lambda: asking.unanswered() == 1, within=5, what="it waits")
        assert asking.unanswered() == 0


async def test_whoever_asked_too_often_waits_as_long_as_it_was_told() -> None:
    async with refused("csr/rate") as ca:
        with pytest.raises(AssertionError):
            await eventually(lambda: ca.asked > 1, within=0.5, what="it asks again")
