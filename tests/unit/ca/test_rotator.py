"""A rotation walked by CAs on a log in memory: by wishes, through kills, with several replicas, with a requester."""

from __future__ import annotations

import asyncio

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from shared.certificates import TrustBundle, decode_bundle
from shared.eventlog.memory import MemoryLogs
from shared.spiffe import SpiffeId
from shared.subjects import Streams
from tests.unit.ca.running import MemoryKeyStore, certificate_authority, requester, wanted_event
from tests.unit.identity.cluster import Cluster, write
from tests.waiting import eventually

STREAMS = Streams()
BUYER = SpiffeId("cluster.local", "bookstore", "bookbuyer")
OLD, NEW = ("default", "cluster.local"), ("root-2", "cluster.local")


async def bundle(logs: MemoryLogs) -> TrustBundle | None:
    record = await logs.stream(STREAMS.certs).last(STREAMS.bundle_subject("cluster.local"))
    return decode_bundle(record.payload) if record is not None else None


async def stands(logs: MemoryLogs, *names: str) -> bool:
    held = await bundle(logs)
    return held is not None and [member.name for member in held.members] == list(names)


async def test_a_rotation_survives_a_ca_that_is_gone_at_each_step() -> None:
    logs, cluster, store = MemoryLogs(), Cluster(), MemoryKeyStore()
    events = logs.stream(STREAMS.events)
    # Without the edge: it would be waited for, and nobody plays it here.
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
