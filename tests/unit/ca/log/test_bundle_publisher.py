"""The bundle reaches the log once, and Kubernetes wherever it belongs."""

from __future__ import annotations

import base64

import pytest

from services.ca.kubernetes.bundle_distributor import BundleDistributor, bundle_pem
from services.ca.log.bundle_publisher import BundlePublisher
from shared.eventlog.protocol import Draft, StaleWriterError
from shared.identity.token_sealing import sealing_key_id
from shared.records.certificate_records import SealingKey, TrustBundle, decode_bundle, encode
from shared.records.subjects import Streams
from shared.service.watch_value import Latest
from shared.streams.memory import MemoryLogs
from tests.unit.ca.fake_kubernetes import FakeKubernetes
from tests.unit.ca.running import new_authority, tasks
from tests.waiting import eventually

NOW = 1_700_000_000.0
KEYS = [SealingKey(id=sealing_key_id(bytes(32)), public=bytes(32))]
A, B = (new_authority(lambda: NOW).certificate_pem for _ in range(2))
BUNDLE = TrustBundle(trust_domain="cluster.local", serial=3, roots=["ROOT\n"], sealing_keys=KEYS)
HOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
HOOK = f"{HOOKS}/meshlog-webhook-meshlog"


def publisher(logs: MemoryLogs, now: float = NOW) -> BundlePublisher:
    certs = logs.stream(Streams().certs)
    return BundlePublisher(certs, streams=Streams(), trust_domain="cluster.local", clock=lambda: now)


async def stored_last(logs: MemoryLogs) -> TrustBundle:
    record = await logs.stream(Streams().certs).last(">")
    assert record is not None
    return decode_bundle(record.payload)


async def stored(logs: MemoryLogs) -> list[TrustBundle]:
    return [decode_bundle(record.payload) async for record in logs.stream(Streams().certs).read()]


def bundle(serial: int, *roots: str) -> TrustBundle:
    return TrustBundle(trust_domain="cluster.local", serial=serial, roots=list(roots), sealing_keys=KEYS)


async def test_a_bundle_is_read_back_and_the_next_serial_grows() -> None:
    logs = MemoryLogs(clock=lambda: int(NOW * 1e9))
    publishing = publisher(logs)
    assert await publishing.read() is None
    assert publishing.next_serial(None) == int(NOW)
    await publishing.publish(bundle(int(NOW), A))
    assert await publisher(logs).read() == bundle(int(NOW), A)
    assert publishing.next_serial(bundle(int(NOW), A)) == int(NOW) + 1
    assert publisher(logs).next_serial(bundle(5, A)) == int(NOW)


async def test_a_log_that_is_lost_leads_nobody_back_who_remembers() -> None:
    logs = MemoryLogs()
    publishing = publisher(logs)
    await publishing.read()
    await publishing.publish(bundle(int(NOW) + 9, A))
    assert publishing.next_serial(None) == int(NOW) + 10


async def test_an_old_bundle_should_be_written_again() -> None:
    logs = MemoryLogs(clock=lambda: int(NOW * 1e9))
    first = publisher(logs)
    await first.read()
    await first.publish(bundle(1, A))
    await first.read()
    assert not first.ageing
    later = publisher(logs, NOW + 86400)
    await later.read()
    assert later.ageing


async def test_a_replica_that_looked_too_early_writes_over_nobody() -> None:
    logs = MemoryLogs()
    early, other = publisher(logs), publisher(logs)
    for one in (early, other):
        await one.read()
    await other.publish(bundle(1, A))
    with pytest.raises(StaleWriterError):
        await early.publish(bundle(2, B))
    assert [one.roots for one in await stored(logs)] == [[A]]


@pytest.mark.parametrize("nonsense", [b"{", encode(bundle(1)), encode(bundle(0, A)), encode(bundle(1, "no root"))])
async def test_nonsense_in_the_place_of_the_bundle_is_replaced(nonsense: bytes) -> None:
    logs = MemoryLogs()
    certs = logs.stream(Streams().certs)
    subject = Streams().bundle_subject("cluster.local")
    await certs.append(
        [Draft(subject=subject, payload=nonsense)], scope=subject, after=await certs.tip(subject), epoch="e"
    )
    publishing = publisher(logs)
    assert await publishing.read() is None
    await publishing.publish(bundle(1, A))
    assert (await stored_last(logs)).roots == [A]


def distributor(kube: FakeKubernetes, members: dict[str, str]) -> tuple[BundleDistributor, Latest[TrustBundle]]:
    latest: Latest[TrustBundle] = Latest()
    latest.set(BUNDLE)
    return BundleDistributor(kube, bundle=latest, members=lambda: members), latest


def config_map_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/meshlog-trust-bundle"


async def test_each_member_gets_the_bundle_once() -> None:
    kube, members = FakeKubernetes(), {"bookstore": "u1", "meshlog-system": "u2"}
    writing, latest = distributor(kube, members)
    assert await writing.reconcile_config_maps()
    assert await writing.reconcile_config_maps()
    assert [path for _, path in kube.requests] == [config_map_path("bookstore"), config_map_path("meshlog-system")]
    assert kube.objects[config_map_path("bookstore")]["data"] == {"bundle.pem": "ROOT\n"}
    members["bookstore"] = "recreated"
    await writing.reconcile_config_maps()
    assert len(kube.requests) == 3
    latest.set(TrustBundle(trust_domain="cluster.local", serial=4, roots=["NEW"], sealing_keys=KEYS))
    await writing.reconcile_config_maps()
    assert kube.objects[config_map_path("bookstore")]["data"] == {"bundle.pem": "NEW\n"}


async def test_a_namespace_that_refuses_holds_up_no_other() -> None:
    kube = FakeKubernetes()
    kube.refusing.add(config_map_path("bookstore"))
    writing, _ = distributor(kube, {"bookstore": "u1", "meshlog-system": "u2"})
    assert not await writing.reconcile_config_maps()
    assert config_map_path("meshlog-system") in kube.objects
    assert writing.unwritten.keys() == {"bookstore"}
    assert "answered 403" in writing.unwritten["bookstore"]
    kube.refusing.clear()
    assert await writing.reconcile_config_maps()
    assert writing.unwritten == {}
    assert config_map_path("bookstore") in kube.objects


async def test_a_namespace_that_refuses_and_leaves_is_not_waited_for() -> None:
    kube, members = FakeKubernetes(), {"bookstore": "u1"}
    kube.refusing.add(config_map_path("bookstore"))
    writing, _ = distributor(kube, members)
    assert not await writing.reconcile_config_maps()
    members.clear()
    assert await writing.reconcile_config_maps()
    assert writing.unwritten == {}


async def test_it_is_known_which_webhooks_are_there_once_it_was_looked() -> None:
    kube = FakeKubernetes()
    writing, _ = distributor(kube, {})
    kind = "mutatingwebhookconfigurations"
    assert writing.webhooks == {}
    await writing.reconcile_webhooks(kind)
    assert writing.webhooks == {kind: frozenset()}
    kube.put(HOOK, webhook())
    await writing.reconcile_webhooks(kind)
    assert writing.webhooks == {kind: frozenset({"meshlog-webhook-meshlog"})}


async def test_a_new_member_gets_its_bundle_when_it_is_woken() -> None:
    kube, members = FakeKubernetes(), {"meshlog-system": "u2"}
    writing, _ = distributor(kube, members)
    async with tasks(writing.run_config_maps()):
        await eventually(lambda: config_map_path("meshlog-system") in kube.objects, within=5, what="written")
        members["bookstore"] = "u1"
        writing.wake()
        await eventually(lambda: config_map_path("bookstore") in kube.objects, within=5, what="written")


def webhook(ca_bundle: str = "") -> dict[str, object]:
    return {
        "metadata": {"name": "meshlog-webhook-meshlog", "labels": {"meshlog.io/inject-ca": "true"}},
        "webhooks": [{"name": "a", "clientConfig": {"caBundle": ca_bundle}}, {"name": "b", "clientConfig": {}}],
    }


def bundles_of(kube: FakeKubernetes) -> set[str]:
    return {hook["clientConfig"].get("caBundle", "") for hook in kube.objects[HOOK]["webhooks"]}


async def test_webhooks_get_the_bundle_when_they_appear_and_whenever_it_changes() -> None:
    kube = FakeKubernetes()
    writing, latest = distributor(kube, {})
    wanted = base64.b64encode(bundle_pem(BUNDLE).encode()).decode()
    async with tasks(writing.run_webhooks("mutatingwebhookconfigurations")):
        await eventually(lambda: ("GET", HOOKS) in kube.requests, within=5, what="listed")
        kube.put(HOOK, webhook("b2xk"))
        await eventually(lambda: bundles_of(kube) == {wanted}, within=5, what="written when it appears")
        latest.set(TrustBundle(trust_domain="cluster.local", serial=4, roots=["NEW"], sealing_keys=KEYS))
        new = base64.b64encode(b"NEW\n").decode()
        await eventually(lambda: bundles_of(kube) == {new}, within=5, what="written when the bundle changes")


async def test_a_bundle_that_comes_in_the_pause_after_another_is_written_too() -> None:
    """Two changes within half a second: the second one must not wait for a third."""
    kube = FakeKubernetes()
    writing, latest = distributor(kube, {})
    async with tasks(writing.run_webhooks("mutatingwebhookconfigurations")):
        await eventually(lambda: not writing_late(writing, BUNDLE.serial), within=5, what="the first is held")
        latest.set(bundle(BUNDLE.serial + 1, A))
        await eventually(lambda: not writing_late(writing, BUNDLE.serial + 1), within=5, what="the second is held")


def writing_late(writing: BundleDistributor, serial: int) -> list[str]:
    return [one for one in writing.undistributed(serial) if one.startswith("mutating")]


async def test_webhooks_that_are_right_are_left_alone() -> None:
    kube = FakeKubernetes()
    writing, _ = distributor(kube, {})
    kube.put(HOOK, webhook())
    await writing.reconcile_webhooks("mutatingwebhookconfigurations")
    await writing.reconcile_webhooks("mutatingwebhookconfigurations")
    assert [method for method, _ in kube.requests] == ["GET", "PATCH", "GET"]
