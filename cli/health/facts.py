"""The facts that checks are judged over: of the control plane's objects in Kubernetes, and of the log."""

from __future__ import annotations

import msgspec

from cli.state.mesh_status import MeshStatus
from cli.state.service_lag import ServiceLag


class WorkloadReadiness(msgspec.Struct, frozen=True):
    """A Deployment or StatefulSet of the control plane."""

    name: str
    installed: bool = True
    wanted: int = 0
    ready: int = 0
    trouble: str = ""
    """What its pods say of themselves, of those that are not ready."""


class ClusterFacts(msgspec.Struct, frozen=True):
    """What Kubernetes tells."""

    namespace: str
    workloads: list[WorkloadReadiness]
    external_log: bool = False
    """The log is none of the installation's."""
    webhook: str = ""
    """What is wrong with the injector's webhook; empty: nothing."""
    roots: int = 0
    """Roots in the published trust bundle."""
    mesh_config: str = ""
    """What is wrong with the MeshConfig; empty: nothing."""
    bare: list[str] = []
    """Pods that want a sidecar and have none, sorted."""
    opened: list[str] = []
    """Pods whose probe ports let more than probes through, sorted."""


class LeaseState(msgspec.Struct, frozen=True):
    """One lease: who leads."""

    service: str
    holder: str
    """The replica that holds it, or held it last; empty: it was never taken, or given back."""
    vacant: bool
    """It was not renewed for longer than it lasts."""
    trouble: str = ""
    """What keeps the holder from its work, in its own words; empty: nothing."""


class RotationState(msgspec.Struct, frozen=True):
    """How far the CA is with its roots."""

    roots: list[str]
    """In the trust bundle, the one that signs first."""
    step: str
    """`steady`, `trust`, `distributing`, `sign`, `renewing`, `drop` or `refused`."""
    why: str
    waiting: list[str]
    """The proxies that it waits for, each with the reason; the first of them."""
    count: int
    """How many that are."""
    since: int
    """When the CA said so, nanoseconds since 1970."""

    @property
    def under_way(self) -> bool:
        """Whether more than one root is trusted, or a step is due that cannot be taken."""
        return len(self.roots) > 1 or (self.step not in {"steady", "first", "drop", "refused"} and bool(self.roots))


class LogFacts(msgspec.Struct, frozen=True):
    """What the log tells."""

    standing: MeshStatus
    lags: list[ServiceLag]
    leases: list[LeaseState] | None = None
    """Who leads; None: an exported file, which cannot say."""
    rotation: RotationState | None = None
    """None: the CA has published nothing."""
    unpublished: int = 0
    """Events that no compiler has published for longer than a moment."""
    unsigned: int = 0
    """Signing requests that no CA has answered for longer than a moment."""


class HealthFacts(msgspec.Struct, frozen=True):
    """All of it. A part that is missing was not asked for, or could not be read."""

    cluster: ClusterFacts | None = None
    cluster_away: str = ""
    """Why Kubernetes could not be asked; empty: it was, or was not to be."""
    log: LogFacts | None = None
    log_away: str = ""
    """Why the log could not be read; empty: it was, or was not to be."""
    live: bool = True
    """Whether the log is that of a mesh, not an exported file."""
    now: int = 0
    """Nanoseconds since 1970."""
