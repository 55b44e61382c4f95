"""The kinds that are ingested, and their paths in the API.

Leases and Events are never read: they are noise by design. Pods, Services, EndpointSlices and ServiceAccounts are
read in *all* namespaces, not only in member namespaces: a namespace becomes a member by a label, and its objects must
be in the log by then. This costs one event per object and nothing afterwards (heartbeats make no events), and leaves
every decision about membership to the compiler.
"""

from __future__ import annotations

import msgspec

from shared.names import MESH_CONFIG
from shared.records.pins import PINNED_KINDS


class WatchedKind(msgspec.Struct, frozen=True):
    """One kind of object."""

    name: str
    group: str
    """API group; empty: core."""
    plural: str
    version: str = ""
    """Fixed version of a built-in kind; empty: the version that the server prefers (a CRD, which may be missing)."""
    namespace: str = ""
    """Namespace whose objects are read; empty: all namespaces."""
    object_name: str = ""
    """Name of the only object that is read; empty: all objects."""

    def path(self, version: str) -> str:
        """Returns the path of the collection in the API."""
        root = f"/apis/{self.group}/{version}" if self.group else f"/api/{version}"
        return f"{root}/namespaces/{self.namespace}/{self.plural}" if self.namespace else f"{root}/{self.plural}"


TOKEN_ISSUER = "TokenIssuer"  # noqa: S105 (a kind)


REPORTED = PINNED_KINDS
"""Kinds whose objects get conditions: policy and routing. The CA writes those of a MeshRootCertificate."""


def kinds(*, mesh_namespace: str) -> tuple[WatchedKind, ...]:
    """Returns all watched kinds."""
    return (
        WatchedKind("Namespace", "", "namespaces", "v1"),
        WatchedKind("ServiceAccount", "", "serviceaccounts", "v1"),
        WatchedKind("Service", "", "services", "v1"),
        WatchedKind("EndpointSlice", "discovery.k8s.io", "endpointslices", "v1"),
        WatchedKind("Pod", "", "pods", "v1"),
        WatchedKind("TrafficTarget", "access.smi-spec.io", "traffictargets"),
        WatchedKind("IdentityBinding", "access.smi-spec.io", "identitybindings"),
        WatchedKind("HTTPRouteGroup", "specs.smi-spec.io", "httproutegroups"),
        WatchedKind("TCPRoute", "specs.smi-spec.io", "tcproutes"),
        WatchedKind("UDPRoute", "specs.smi-spec.io", "udproutes"),
        WatchedKind("TrafficSplit", "split.smi-spec.io", "trafficsplits"),
        WatchedKind(
            "MeshConfig",
            "config.openservicemesh.io",
            "meshconfigs",
            namespace=mesh_namespace,
            object_name=MESH_CONFIG,
        ),
        WatchedKind(
            "MeshRootCertificate", "config.openservicemesh.io", "meshrootcertificates", namespace=mesh_namespace
        ),
        WatchedKind("Egress", "policy.openservicemesh.io", "egresses"),
        WatchedKind("IngressBackend", "policy.openservicemesh.io", "ingressbackends"),
        WatchedKind("Retry", "policy.openservicemesh.io", "retries"),
        WatchedKind("UpstreamTrafficSetting", "policy.openservicemesh.io", "upstreamtrafficsettings"),
        WatchedKind("Telemetry", "policy.openservicemesh.io", "telemetries"),
        WatchedKind("ExtensionService", "config.openservicemesh.io", "extensionservices"),
    )


def is_followed(kind: str, namespace: str, name: str, *, mesh_namespace: str) -> bool:
    """Whether an object gets events: of some kinds, only objects in the mesh's own namespace or of one name do."""
    found = next((one for one in kinds(mesh_namespace=mesh_namespace) if one.name == kind), None)
    if found is None:
        return False
    return found.namespace in ("", namespace) and found.object_name in ("", name)
