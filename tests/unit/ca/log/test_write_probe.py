"""A CA whose log takes no writes is not ready, and is again as soon as one is taken, whether or not a request comes."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from services.ca.log import write_probe
from services.ca.log.write_probe import WriteProbe
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import LogUnavailableError
from shared.identity.spiffe import SpiffeId
from shared.records.certificate_records import decode_note
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.unit.ca.running import certificate_authority, requester, tasks
from tests.unit.identity.cluster import Cluster, write
from tests.waiting import eventually

BUYER = SpiffeId(trust_domain="cluster.local", namespace="bookstore", service_account="bookbuyer")
LOST = LogUnavailableError("log/unavailable", "the log cannot be reached")


def writing(said: list[tuple[str, bool, str]]) -> tuple[MemoryLog, WriteProbe]:
    certs = MemoryLogs().stream(Streams().certs)

    def told(name: str, ready: bool, why: str) -> None:  # noqa: FBT001 (the signature of `Context.ready`)
        said.append((name, ready, why))

    return certs, WriteProbe(certs, streams=Streams(), ready=told)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_probe, "RETRY_SECONDS", 0.02)


async def test_an_answer_that_is_not_taken_makes_the_ca_unready_until_a_write_is() -> None:
    logs, cluster = MemoryLogs(), Cluster()
    certs = logs.stream(Streams().certs)
    await write(logs.stream(Streams().events), cluster.bookstore())
    async with certificate_authority(logs) as ca, requester(logs) as asking:
        seen = ca.write_probe
        assert seen is not None
        await asking.request(cluster.token(), BUYER, within=5)
        assert not seen.trouble
        certs.max_bytes = 1
        asked = asyncio.ensure_future(asking.request(cluster.token(), BUYER, within=30))
        await eventually(lambda: seen.trouble, within=5, what="the CA says that it cannot write")
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
        certs.max_bytes = 0
        await eventually(lambda: not seen.trouble, within=5, what="the CA says that it can write again")


async def test_one_write_that_is_lost_is_noted_and_makes_nothing_unready() -> None:
    said = list[tuple[str, bool, str]]()
    certs, seen = writing(said)
    async with tasks(seen.run()):
        seen.failed(LOST)
        await eventually(lambda: said, within=5, what="the next write was taken")
        with pytest.raises(AssertionError):
            await eventually(lambda: len(said) > 1, within=0.3, what="it goes on writing")
    assert said == [("log", True, "")]
    note = await certs.last(Streams().audit_subject("log"))
    assert note is not None
    assert decode_note(note.payload).why == "one write failed, the next did not"


async def test_an_outage_is_said_once_it_lasts_and_noted_when_it_is_over() -> None:
    said = list[tuple[str, bool, str]]()
    certs, seen = writing(said)
    async with tasks(seen.run()):
        certs.down()
        seen.failed(LOST)
        await eventually(lambda: said, within=5, what="it is said")
        name, ready, why = said[-1]
        assert (name, ready) == ("log", False)
        assert "the log cannot be written, so no request is answered" in why
        certs.up()
        await eventually(lambda: said[-1][1], within=5, what="it is over")
    note = await certs.last(Streams().audit_subject("log"))
    assert note is not None
    assert "the log cannot be written" in decode_note(note.payload).why
