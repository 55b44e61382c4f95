"""The state that events fold into: what exists now, as inputs of the incremental engine.

Objects stand by name in input maps, and under what they will be looked up by in indexes, so that a query reads only
what can change its answer. The state is a function of the newest event of each object alone (and of the last good
form of the few kinds that keep it): the order of events about different objects does not matter.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from services.compiler.engine import Engine
from services.compiler.engine_inputs import Index, InputMap
from shared.names import MESH_NAMESPACE
from shared.policy.budgets import DEFAULTS, Budgets
from shared.policy.model import IdentityBinding, MeshConfig, RouteGroup, TcpRoute, TrafficSplit, TrafficTarget, UdpRoute
from shared.policy.object_name import ObjectName
from shared.projected_objects import EndpointSlice, Namespace, Pod, PolicyObject, Service
from shared.records.events import ObjectKey
from shared.records.snapshot import Cause, Quarantined


class MeshSettings(msgspec.Struct, frozen=True):
    """Settings of the compiler; everything else is in the log."""

    cluster: str = "cluster"
    """The cluster whose events are compiled."""
    mesh_name: str = "meshlog"
    """Value of the monitored-by label of member namespaces."""
    namespace: str = MESH_NAMESPACE
    """The mesh's own namespace, where its MeshConfig is."""
    trust_domain: str = "cluster.local"
    service_domain: str = "cluster.local"
    """Domain under which services have their names."""
    budgets: Budgets = DEFAULTS
    """How much objects and namespaces may have."""
    loopback: bool = False
    """Whether pods may have loopback addresses: only in tests, which run pods without a network of their own."""


class SelectorPair(NamedTuple):
    """A label that a Service's selector asks for."""

    namespace: str
    label: str
    value: str


class MeshState:
    """The inputs of one mesh in one cluster, and the engine that answers queries over them."""

    def __init__(self, settings: MeshSettings) -> None:
        self.settings = settings
        self.engine = engine = Engine()
        self.namespaces: InputMap[str, Namespace] = InputMap(engine)
        self.services: InputMap[ObjectName, Service] = InputMap(engine)
        self.slices: InputMap[ObjectName, EndpointSlice] = InputMap(engine)
        self.pods: InputMap[ObjectName, Pod] = InputMap(engine)
        self.targets: InputMap[ObjectName, TrafficTarget] = InputMap(engine)
        self.route_groups: InputMap[ObjectName, RouteGroup] = InputMap(engine)
        self.tcp_routes: InputMap[ObjectName, TcpRoute] = InputMap(engine)
        self.udp_routes: InputMap[ObjectName, UdpRoute] = InputMap(engine)
        self.bindings: InputMap[ObjectName, IdentityBinding] = InputMap(engine)
        self.splits: InputMap[ObjectName, TrafficSplit] = InputMap(engine)
        self.mesh_configs: InputMap[ObjectName, MeshConfig] = InputMap(engine)
        self.roots: InputMap[ObjectName, PolicyObject] = InputMap(engine)
        """MeshRootCertificates: their trust domains are all accepted while they are there."""

        self.namespaces_of_mesh: Index[str, str] = Index(engine)
        """Mesh → its member namespaces."""
        self.services_of_namespace: Index[str, ObjectName] = Index(engine)
        self.services_by_selector: Index[SelectorPair, ObjectName] = Index(engine)
        """(namespace, label, value) → services whose selector has that pair first: a query of all pairs of a pod's
        labels finds each service that may select it once."""
        self.services_by_address: Index[str, ObjectName] = Index(engine)
        """Cluster address → Services of any namespace that claim it."""
        self.slices_of_service: Index[ObjectName, ObjectName] = Index(engine)
        self.services_naming_pod: Index[ObjectName, tuple[ObjectName, ObjectName]] = Index(engine)
        """Pod → (service, slice of it that names the pod): readiness, which flaps, is not in it."""
        self.pods_by_address: Index[str, ObjectName] = Index(engine)
        """Address → pods of any namespace that claim it and have not ended, also those on their node's network."""
        self.pods_of_account: Index[ObjectName, ObjectName] = Index(engine)
        self.accounts_of_namespace: Index[str, ObjectName] = Index(engine)
        """Namespace → accounts that pods run as."""
        self.pods_of_namespace: Index[str, ObjectName] = Index(engine)
        self.bindings_of_namespace: Index[str, ObjectName] = Index(engine)
        self.groups_of_namespace: Index[str, ObjectName] = Index(engine)
        self.targets_of_namespace: Index[str, ObjectName] = Index(engine)
        self.targets_by_source: Index[ObjectName, ObjectName] = Index(engine)
        self.targets_by_destination: Index[ObjectName, ObjectName] = Index(engine)
        self.targets_by_source_binding: Index[ObjectName, ObjectName] = Index(engine)
        self.targets_by_destination_binding: Index[ObjectName, ObjectName] = Index(engine)
        self.splits_by_root: Index[ObjectName, ObjectName] = Index(engine)
        self.splits_by_backend: Index[ObjectName, ObjectName] = Index(engine)

        self.roots_of_namespace: Index[str, ObjectName] = Index(engine)

        self.causes: dict[ObjectKey, Cause] = {}
        """The newest event of each object that exists."""
        self.rejected: dict[ObjectKey, Quarantined] = {}
        """Objects whose newest form cannot be read."""
