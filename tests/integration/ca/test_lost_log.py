"""The whole log is lost in the middle of a rotation: whatever was trusted is trusted on, and the rotation completes."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

import pytest

from services.ca import rotation_controller
from shared.eventlog.protocol import EventLog, EventLogError, Logs
from shared.identity.spiffe import SpiffeId
from shared.identity.svid import parse_certificates
from shared.identity.svid_validator import validate_svid
from shared.records.certificate_records import TrustBundle, decode_bundle
from shared.records.subjects import Streams
from tests.nats_server import connected, running_nats
from tests.unit.ca.running import MemoryKeyStore, certificate_authority, requester, wanted_event
from tests.unit.identity.cluster import Cluster, write
from tests.waiting import eventually

pytestmark = pytest.mark.nats
STREAMS = Streams()
SUBJECT = STREAMS.bundle_subject("cluster.local")
BUYER = SpiffeId("cluster.local", "bookstore", "bookbuyer")
OLD, NEW = ("default", "cluster.local"), ("root-2", "cluster.local")


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state machine steps often, so that no test waits for a pause."""
    monkeypatch.setattr(rotation_controller, "PACE_SECONDS", 0.05)


async def bundles(logs: Logs) -> list[TrustBundle]:
    """Every bundle that the log holds, in order; none while there is no such log."""
    try:
        log: EventLog = await logs.open(STREAMS.certs)
        return [decode_bundle(record.payload) async for record in log.read(subjects=SUBJECT)]
    except EventLogError:
        return []


def names(bundle: TrustBundle) -> tuple[str, ...]:
    return tuple(member.name for member in bundle.members)


async def stands(logs: Logs, *wanted: str) -> bool:
    found = await bundles(logs)
    return bool(found) and names(found[-1]) == wanted


@pytest.mark.parametrize("restarted", [False, True], ids=["the CA lives on", "the CA starts anew as well"])
async def test_a_log_lost_in_the_middle_of_a_rotation_costs_no_trust(tmp_path: Path, restarted: bool) -> None:  # noqa: FBT001
    cluster, store = Cluster(), MemoryKeyStore()
    # Without the edge: the rotation would wait for it, and this test runs none.
    living = [event for event in cluster.bookstore() if "xds-edge" not in event.name]
    token = cluster.token()
    with running_nats(tmp_path) as server:
        async with connected(server) as logs, requester(logs) as asking:
            events = await logs.open(STREAMS.events)

            async def rotation() -> None:
                """Half-way: the new root signs, the old one is trusted still."""
                await write(events, [wanted_event(cluster, *OLD, "passive"), wanted_event(cluster, *NEW, "active")])
                await eventually(lambda: stands(logs, "root-2", "default"), within=20, what="the new root signs")

            async def told_again() -> bool:
                """What an ingestor does, as often as it must: derive the log from the cluster in a new epoch."""
                wishes = [wanted_event(cluster, *OLD, "passive"), wanted_event(cluster, *NEW, "active")]
                with contextlib.suppress(EventLogError):
                    await write(events, [*living, *wishes], epoch="epoch-2")
                    return True
                return False

            async with contextlib.AsyncExitStack() as ca:
                await ca.enter_async_context(certificate_authority(logs, store=store))
                await write(events, [*living, wanted_event(cluster, *OLD, "active")])
                await eventually(lambda: stands(logs, "default"), within=20, what="the first bundle")
                first = await asking.request(token, BUYER, within=20)
                await rotation()
                second = await asking.request(token, BUYER, within=20)
                before = await bundles(logs)
                if restarted:
                    await ca.aclose()
                server.kill()
                shutil.rmtree(tmp_path / "data")
                server.start()
                # Serials come from the clock: a CA without memory needs a second that was not used yet.
                await eventually(lambda: time.time() > before[-1].serial + 1, within=10, what="time passes")
                await eventually(told_again, within=30, what="the log tells of the cluster again")
                if restarted:
                    await ca.enter_async_context(certificate_authority(logs, store=store))
                await eventually(lambda: stands(logs, "root-2", "default"), within=40, what="half-way again")
                third = await asking.request(token, BUYER, within=20)
                after = await bundles(logs)
                await write(events, [wanted_event(cluster, *OLD, "inactive")])
                await eventually(lambda: stands(logs, "root-2"), within=40, what="the rotation is over")
                await asking.request(token, BUYER, within=20)
    assert after[0].serial > before[-1].serial
    for bundle in after:
        assert set(bundle.roots) == set(before[-1].roots)
        for svid in (first, second, third):
            roots = parse_certificates(bundle.roots)
            validate_svid(parse_certificates(svid.chain), roots, now=svid.not_before + 60, expected=BUYER)
