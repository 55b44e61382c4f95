"""The facts that checks are evaluated on: the control plane's objects in Kubernetes, and the log."""

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
    """The states of its pods that are not ready."""


class ClusterFacts(msgspec.Struct, frozen=True):
    """Facts read from Kubernetes."""

    namespace: str
    workloads: list[WorkloadReadiness]
    external_log: bool = False
    """Whether the log is not the installation's own."""
    webhook: str = ""
    """What is wrong with the injector's webhook; empty if nothing is."""
    roots: int = 0
    """Roots in the published trust bundle."""
    mesh_config: str = ""
    """What is wrong with the MeshConfig; empty if nothing is."""
    bare: list[str] = []
    """Pods that want a sidecar and have none, sorted."""
    opened: list[str] = []
    """Pods whose probe ports let more than probes through, sorted."""


class LeaseState(msgspec.Struct, frozen=True):
    """One service's lease, held by its leader."""

    service: str
    holder: str
    """The replica that holds it, or held it last; empty if it was never taken, or was released."""
    vacant: bool
    """Whether it was not renewed for longer than it lasts."""
    trouble: str = ""
    """What prevents the holder from working, as it reports it; empty if nothing does."""


class RotationState(msgspec.Struct, frozen=True):
    """The state of the CA's rotation of roots."""

    roots: list[str]
    """Names of the roots in the trust bundle, the signing one first."""
    step: str
    """`steady`, `trust`, `distributing`, `sign`, `renewing`, `drop` or `refused`."""
    why: str
    waiting: list[str]
    """The first of the proxies that it waits for, each with the reason."""
    count: int
    """The number of all of them."""
    since: int
    """When the CA reported this, nanoseconds since 1970."""

    @property
    def under_way(self) -> bool:
        """Whether more than one root is trusted, or a step is due that cannot be taken."""
        return len(self.roots) > 1 or (self.step not in {"steady", "first", "drop", "refused"} and bool(self.roots))


class LogFacts(msgspec.Struct, frozen=True):
    """Facts read from the log."""

    standing: MeshStatus
    lags: list[ServiceLag]
    leases: list[LeaseState] | None = None
    """The leases of the services with a leader; None for an exported file, which has none."""
    rotation: RotationState | None = None
    """None if the CA has published nothing."""
    unpublished: int = 0
    """Events that no compiler has published for longer than a moment."""
    unsigned: int = 0
    """Signing requests that no CA has answered for longer than a moment."""


class HealthFacts(msgspec.Struct, frozen=True):
    """All facts. A part that is None was not asked for, or could not be read."""

    cluster: ClusterFacts | None = None
    cluster_away: str = ""
    """Why Kubernetes could not be read; empty if it was read, or not asked for."""
    log: LogFacts | None = None
    log_away: str = ""
    """Why the log could not be read; empty if it was read, or not asked for."""
    live: bool = True
    """Whether the log is that of a mesh, not an exported file."""
    now: int = 0
    """Nanoseconds since 1970."""
