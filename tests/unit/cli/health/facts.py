"""Facts of a mesh in which all is well, to break one thing of."""

from __future__ import annotations

from typing import Any

import msgspec

from cli.health.facts import ClusterFacts, HealthFacts, LeaseState, LogFacts, RotationState, WorkloadReadiness
from cli.state.mesh_status import CertificateState, MeshStatus, ProxyState
from cli.state.service_lag import ServiceLag

NOW = 1_800_000_000 * 10**9
SERVICES = ("meshlog-ingestor", "meshlog-compiler", "meshlog-ca", "meshlog-xds-edge", "meshlog-injector")

STANDING = MeshStatus(
    version=7,
    published=NOW,
    build="0",
    events=7,
    proxies=[ProxyState("shop/web", "in sync", "", 7, "edge-1", "c")],
    quarantine=[],
    certificates=CertificateState(1, NOW // 10**9 + 3600, "shop/web", 0),
    streams=[],
    rebuilt_from=1,
    objects_from=1,
    pinned="",
    mesh_config=True,
    foreign=[],
)
LOG = LogFacts(
    standing=STANDING,
    lags=[ServiceLag("compiler", 0, "compiled every event")],
    leases=[LeaseState("ingestor", "ingestor-0", vacant=False), LeaseState("compiler", "compiler-0", vacant=False)],
    rotation=RotationState(["default"], "steady", "", [], 0, NOW),
)
CLUSTER = ClusterFacts(
    namespace="meshlog-system",
    workloads=[WorkloadReadiness(name, wanted=1, ready=1) for name in ("nats", *SERVICES)],
    roots=1,
)
WELL = HealthFacts(cluster=CLUSTER, log=LOG, now=NOW)


def log(**parts: Any) -> HealthFacts:
    """All is well but for parts of what the log tells."""
    return msgspec.structs.replace(WELL, log=msgspec.structs.replace(LOG, **parts))


def standing(**parts: Any) -> HealthFacts:
    """All is well but for parts of how proxies and objects stand."""
    return log(standing=msgspec.structs.replace(STANDING, **parts))


def cluster(**parts: Any) -> HealthFacts:
    """All is well but for parts of what Kubernetes tells."""
    return msgspec.structs.replace(WELL, cluster=msgspec.structs.replace(CLUSTER, **parts))


def workload(name: str, **parts: Any) -> HealthFacts:
    """All is well but for one workload."""
    every = [msgspec.structs.replace(one, **parts) if one.name == name else one for one in CLUSTER.workloads]
    return cluster(workloads=every)


def proxy(state: str, reason: str = "why", *, certificate_until: int = 0) -> HealthFacts:
    """All is well but for one more proxy."""
    one = ProxyState("shop/db", state, reason, 3, "edge-1", "c", certificate_until)
    return standing(proxies=[*STANDING.proxies, one])


def rotation(**parts: Any) -> HealthFacts:
    """A rotation is under way."""
    usual = RotationState(
        roots=["default", "root-2"],
        step="distributing",
        why="root-2 signs soon",
        waiting=["shop/db: has not"],
        count=1,
        since=NOW,
    )
    return log(rotation=msgspec.structs.replace(usual, **parts))
