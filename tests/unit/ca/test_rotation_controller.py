"""A rotation walked by CAs on a log in memory: by wishes, through kills, with several replicas, with a requester."""

from __future__ import annotations

import asyncio
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from services.ca import rotation_controller
from services.ca.app import default_root
from services.ca.keys.authority import generate_authority
from services.ca.settings import CaSettings
from shared.identity.spiffe import SpiffeId
from shared.identity.svid_requester import SvidUnavailableError
from shared.records.certificate_records import TrustBundle, decode_bundle, decode_note
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.unit.ca.running import MemoryKeyStore, certificate_authority, requester, wanted_event
from tests.unit.identity.cluster import Cluster, write
from tests.waiting import eventually

STREAMS = Streams()
BUYER = SpiffeId("cluster.local", "bookstore", "bookbuyer")
WANTED = default_root(CaSettings())
OLD, NEW = ("default", "cluster.local"), ("root-2", "cluster.local")


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state machine steps often, so that no test waits for a pause."""
    monkeypatch.setattr(rotation_controller, "PACE_SECONDS", 0.05)


async def bundle(logs: MemoryLogs) -> TrustBundle | None:
    record = await logs.stream(STREAMS.certs).last(STREAMS.bundle_subject("cluster.local"))
    return decode_bundle(record.payload) if record is not None else None


async def stands(logs: MemoryLogs, *names: str) -> bool:
    held = await bundle(logs)
    return held is not None and [member.name for member in held.members] == list(names)


async def test_a_rotation_survives_a_ca_that_is_gone_at_each_step() -> None:
    logs, cluster, store = MemoryLogs(), Cluster(), MemoryKeyStore()
    events = logs.stream(STREAMS.events)
    # Without the edge: the rotation would wait for it, and this test runs none.
    await write(events, [event for event in cluster.bookstore() if "xds-edge" not in event.name])
    steps = [
        ([], ("default",)),
        ([(*OLD, "active"), (*NEW, "passive")], ("default", "root-2")),
        ([(*NEW, "active"), (*OLD, "passive")], ("root-2", "default")),
        ([(*OLD, "inactive")], ("root-2",)),
    ]
    serials: list[str] = []
    for wishes, names in steps:
        if wishes:
            await write(events, [wanted_event(cluster, *wish) for wish in wishes])
        async with certificate_authority(logs, store=store), requester(logs, instance=f"edge-{len(serials)}") as asking:
            await eventually(lambda wanted=names: stands(logs, *wanted), within=10, what=f"{names}")
            svid = await asking.request(cluster.token(), BUYER, within=10)
            serials.append(svid.serial)
    assert len(set(serials)) == 4
    assert set(store.stored) == {"default", "root-2"}


async def test_replicas_that_walk_at_once_take_each_step_once() -> None:
    logs, cluster, store = MemoryLogs(), Cluster(), MemoryKeyStore()
    events = logs.stream(STREAMS.events)
    await write(events, [event for event in cluster.bookstore() if "xds-edge" not in event.name])
    await write(events, [wanted_event(cluster, *OLD, "active")])
    async with (
        certificate_authority(logs, store=store),
        certificate_authority(logs, store=store),
        certificate_authority(logs, store=store),
    ):
        await eventually(lambda: stands(logs, "default"), within=10, what="the first bundle")
        await write(events, [wanted_event(cluster, *OLD, "inactive"), wanted_event(cluster, *NEW, "active")])
        await eventually(lambda: stands(logs, "root-2"), within=20, what="the last step")
    written = [
        decode_bundle(record.payload)
        async for record in logs.stream(STREAMS.certs).read(subjects=STREAMS.bundle_subject("cluster.local"))
    ]
    names = [[member.name for member in one.members] for one in written]
    assert names == [["default"], ["default", "root-2"], ["root-2", "default"], ["root-2"]]


async def test_a_root_whose_provider_does_not_work_changes_nothing() -> None:
    logs, cluster = MemoryLogs(), Cluster()
    events = logs.stream(STREAMS.events)
    await write(events, cluster.bookstore())
    await write(events, [wanted_event(cluster, *OLD, "active"), wanted_event(cluster, *NEW, "active", "vault")])
    async with certificate_authority(logs) as ca, requester(logs) as asking:
        await eventually(lambda: "root-2" in ca.roots.problems, within=10, what="the problem")
        assert await stands(logs, "default")
        await asking.request(cluster.token(), BUYER, within=5)


async def test_the_mesh_config_asks_for_rsa_keys() -> None:
    logs, cluster = MemoryLogs(), Cluster()
    await write(logs.stream(STREAMS.events), cluster.bookstore())
    await write(logs.stream(STREAMS.events), [cluster.config_event({"certificate": {"certKeyBitSize": 2048}})])
    async with certificate_authority(logs), requester(logs) as asking, asyncio.timeout(20):
        svid = await asking.request(cluster.token(), BUYER, within=20)
    key = x509.load_pem_x509_certificate(svid.chain_pem).public_key()
    assert isinstance(key, RSAPublicKey)
    assert key.key_size == 2048


async def noted(logs: MemoryLogs, sentence: str) -> bool:
    record = await logs.stream(STREAMS.certs).last(STREAMS.audit_subject("rotation"))
    return record is not None and any(sentence in one for one in decode_note(record.payload).waiting)


@pytest.mark.parametrize(
    ("left", "sentence"), [("nothing", "keys are gone"), ("other keys", "not those of the root that the mesh trusts")]
)
async def test_keys_that_are_lost_are_never_made_again_in_silence_and_a_rotation_heals(
    left: str, sentence: str
) -> None:
    """A second key under the name of a trusted root would sign certificates that no member trusts."""
    logs, cluster, store = MemoryLogs(), Cluster(), MemoryKeyStore()
    events = logs.stream(STREAMS.events)
    await write(events, [event for event in cluster.bookstore() if "xds-edge" not in event.name])
    async with certificate_authority(logs, store=store):
        await eventually(lambda: stands(logs, "default"), within=10, what="the first bundle")
    before, kept = await bundle(logs), dict(store.stored)
    store.stored.clear()
    if left == "other keys":
        await store.of(WANTED).create(generate_authority("cluster.local", clock=time.time))
    found = dict(store.stored)
    async with certificate_authority(logs, store=store), requester(logs) as asking:
        await eventually(lambda: noted(logs, sentence), within=10, what="the CA says that the keys are lost")
        with pytest.raises(SvidUnavailableError):
            await asking.request(cluster.token(), BUYER, within=0.5)
        assert (await bundle(logs), store.stored) == (before, found)
        await write(events, [wanted_event(cluster, *OLD, "inactive"), wanted_event(cluster, *NEW, "active")])
        await eventually(lambda: stands(logs, "root-2"), within=20, what="the new root is the only one")
        await asking.request(cluster.token(), BUYER, within=10)
    assert store.stored.keys() - kept.keys() == {"root-2"}


async def test_keys_that_come_back_from_a_backup_sign_again() -> None:
    logs, cluster, store = MemoryLogs(), Cluster(), MemoryKeyStore()
    await write(logs.stream(STREAMS.events), cluster.bookstore())
    async with certificate_authority(logs, store=store):
        await eventually(lambda: stands(logs, "default"), within=10, what="the first bundle")
    kept = dict(store.stored)
    store.stored.clear()
    async with certificate_authority(logs, store=store), requester(logs) as asking:
        await eventually(lambda: noted(logs, "keys are gone"), within=10, what="the CA says that the keys are lost")
        store.stored.update(kept)
        # Any change of the cluster makes the CA look again; without one it does so within a minute.
        await write(logs.stream(STREAMS.events), [cluster.config_event({"certificate": {}})])
        await asking.request(cluster.token(), BUYER, within=20)
