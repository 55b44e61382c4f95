"""A rotation waits for every proxy that could be hurt, connected or not, and for no other."""

from __future__ import annotations

import pytest

from services.ca.core.cluster_state import ClusterState
from services.ca.log.rotation_progress import FleetProgress
from shared.eventlog.protocol import Draft
from shared.identity.service_account_tokens import TokenVerifier
from shared.projected_objects import ANNOTATION_SIDECAR, Meta, Pod, PodSpec, PodStatus
from shared.records.certificate_records import SigningAnswer, TrustBundle, TrustedRoot, encode
from shared.records.events import Event
from shared.records.events import encode as encode_event
from shared.records.proxy_status import ProxyStatus, TypeStatus, encode_status
from shared.records.snapshot import SDS, SECRET_TRUST_BUNDLE, SECRET_WORKLOAD
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.chained import write_chained
from tests.unit.ca.running import wanted_event
from tests.unit.identity.cluster import Cluster

NOW = 1_800_000_000.0
STREAMS = Streams()


def report(pod: str = "bookbuyer-1", uid: str = "", **changes: object) -> ProxyStatus:
    fields: dict[str, object] = {
        "cluster": "devcluster",
        "namespace": "bookstore",
        "pod": pod,
        "uid": uid or f"uid-{pod}",
        "service_account": "bookbuyer",
        "edge": "e",
        "connected": True,
        "since": int(NOW - 3600) * 10**9,
        "types": {SDS: TypeStatus()},
        "bundle": 5,
        "certificate_bundle": 5,
        "certificate_until": int(NOW) + 60,
        **changes,
    }
    return ProxyStatus(**fields)  # type: ignore[arg-type]


class Fleet:
    def __init__(self) -> None:
        self.logs = MemoryLogs()
        self.facts = ClusterState(
            TokenVerifier(clock=lambda: NOW), cluster="devcluster", mesh_name="meshlog", mesh_namespace="meshlog-system"
        )
        for event in Cluster(now=NOW).bookstore():
            self.facts.apply(event)
        self.bundle = TrustBundle("cluster.local", 9, ["R"], [], [TrustedRoot("a", "cluster.local", 9)], 9)
        self.progress = FleetProgress(
            status=self.logs.stream(STREAMS.status),
            certs=self.logs.stream(STREAMS.certs),
            events=self.logs.stream(STREAMS.events),
            streams=STREAMS,
            state=self.facts,
            cluster="devcluster",
            namespace="meshlog-system",
            bundle_subject=STREAMS.bundle_subject("cluster.local"),
            serving_accounts=("meshlog-xds-edge",),
            clock=lambda: NOW,
            skew=300,
            lifetime=86400,
        )

    async def told(self, *reports: ProxyStatus) -> FleetProgress:
        for one in reports:
            subject = STREAMS.status_subject(one.cluster, one.namespace, one.pod)
            await self.logs.stream(STREAMS.status).publish(Draft(subject, encode_status(one)))
        await self.progress.refresh(self.bundle)
        return self.progress


@pytest.mark.parametrize(
    ("one", "waits"),
    [
        (report(), True),
        (report(bundle=9), False),
        (report(bundle=10), False),
        (report(connected=False), True),
        (report(connected=False, certificate_until=int(NOW) - 299), True),
        (report(connected=False, certificate_until=int(NOW) - 301), False),
        (report(certificate_until=int(NOW) - 301), True),
        (report(connected=False, certificate_until=999_999_999_999), True),
        (report(connected=False, certificate_until=999_999_999_999, since=int(NOW - 86400 - 301) * 10**9), False),
        (report(types={}), False),
        (report(secrets=(SECRET_TRUST_BUNDLE, SECRET_WORKLOAD)), True),
        (report(secrets=(SECRET_TRUST_BUNDLE,), connected=False), True),
        (report(secrets=(SECRET_WORKLOAD,)), False),
        (report(secrets=()), False),
        (report(secrets=(), connected=False), False),
        (report(uid="another"), False),
        (report(pod="gone"), False),
    ],
)
async def test_a_new_root_waits_for_whoever_does_not_trust_it(one: ProxyStatus, waits: bool) -> None:  # noqa: FBT001
    progress = await Fleet().told(one)
    assert bool(progress.untrusting(9)) is waits


async def test_reports_that_no_edge_wrote_hold_nothing() -> None:
    """Bytes that are no report, and a report about another proxy than its subject."""
    fleet = Fleet()
    status = fleet.logs.stream(STREAMS.status)
    await fleet.told(report(bundle=9))
    for payload in (b"", b"\xff", b"[" * 100_000, b'{"type":"io.nats.jetstream.api.v1.stream_info_response"}'):
        await status.publish(Draft(STREAMS.status_subject("devcluster", "bookstore", "bookthief-1"), payload))
    await status.publish(Draft(STREAMS.status_subject("devcluster", "bookstore", "x"), encode_status(report())))
    progress = await fleet.told()
    assert progress.untrusting(9) == []


async def test_half_a_fleet_that_is_offline_is_waited_for_by_name() -> None:
    away = report("bookthief-1", connected=False)
    progress = await Fleet().told(report(bundle=9), away)
    assert progress.untrusting(9) == [
        "bookstore/bookthief-1: has not acknowledged the new trust bundle (not connected now)"
    ]


async def test_an_old_root_waits_for_proxies_and_for_the_control_planes_servers() -> None:
    fleet = Fleet()
    progress = await fleet.told(report(), report("bookthief-1", certificate_bundle=9))
    assert [one.partition(":")[0] for one in progress.unrenewed(9)] == [
        "bookstore/bookbuyer-1",
        "meshlog-system/meshlog-xds-edge-1",
    ]
    answer = SigningAnswer(id="1", bundle_serial=9, pod_uid="uid-meshlog-xds-edge-1")
    await fleet.logs.stream(STREAMS.certs).publish(Draft(STREAMS.issued_subject("e", "1"), encode(answer)))
    progress = await fleet.told(report(certificate_bundle=9))
    assert progress.unrenewed(9) == []


async def test_a_new_trust_domain_waits_for_the_compiled_policies() -> None:
    fleet, cluster = Fleet(), Cluster(now=NOW)
    root = TrustedRoot("root-2", "example.org", 9)
    fleet.bundle = TrustBundle("cluster.local", 9, ["R", "S"], [], [*fleet.bundle.members, root], 9)
    assert (await fleet.told(report())).uncompiled(root) == ["root-2: the log does not tell of it yet"]
    for role in ("passive", "active"):
        event = wanted_event(cluster, "root-2", "example.org", role)
        await write_chained(
            fleet.logs.stream(STREAMS.events),
            Draft(event.subject(STREAMS), encode_event(event)),
            scope=STREAMS.cluster_scope(event.cluster),
        )
    behind = report(types={SDS: TypeStatus(acked=0)})
    assert len((await fleet.told(behind)).uncompiled(root)) == 1
    assert (await fleet.told(report(types={SDS: TypeStatus(acked=1)}))).uncompiled(root) == []


def sidecar(pod: str, *, address: str = "10.0.0.1", phase: str = "Running", namespace: str = "bookstore") -> Event:
    meta = Meta(name=pod, namespace=namespace, uid=f"uid-{pod}", annotations={ANNOTATION_SIDECAR: "1"})
    running = Pod(metadata=meta, spec=PodSpec("bookbuyer"), status=PodStatus(phase=phase, pod_ip=address))
    return Cluster(now=NOW).event("Pod", namespace, pod, running)


@pytest.mark.parametrize(
    ("pod", "waits"),
    [
        (sidecar("silent"), True),
        (sidecar("silent", phase="Pending"), True),
        (sidecar("silent", address=""), False),
        (sidecar("silent", phase="Succeeded"), False),
        (sidecar("silent", namespace="elsewhere"), False),
        (sidecar("bookbuyer-1"), False),
    ],
)
async def test_a_sidecar_that_no_report_is_known_of_is_waited_for_at_each_gate(pod: Event, waits: bool) -> None:  # noqa: FBT001
    """If the log lost the statuses, a rotation must not conclude that there are no proxies."""
    fleet = Fleet()
    fleet.facts.apply(pod)
    root = TrustedRoot("root-2", "example.org", 9)
    fleet.bundle = TrustBundle("cluster.local", 9, ["R", "S"], [], [*fleet.bundle.members, root], 9)
    event = wanted_event(Cluster(now=NOW), "root-2", "example.org", "passive")
    await write_chained(
        fleet.logs.stream(STREAMS.events),
        Draft(event.subject(STREAMS), encode_event(event)),
        scope=STREAMS.cluster_scope(event.cluster),
    )
    answer = SigningAnswer(id="1", bundle_serial=9, pod_uid="uid-meshlog-xds-edge-1")
    await fleet.logs.stream(STREAMS.certs).publish(Draft(STREAMS.issued_subject("e", "1"), encode(answer)))
    held = report(bundle=9, certificate_bundle=9, types={SDS: TypeStatus(acked=1)})
    progress = await fleet.told(held)
    expected = ["bookstore/silent: has a sidecar that no edge has reported yet"] if waits else []
    assert progress.untrusting(9) == progress.uncompiled(root) == progress.unrenewed(9) == expected
