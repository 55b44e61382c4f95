"""Which kinds are ingested, and where the API server keeps them.

Leases and Events are never read: they are noise by design. Pods, Services, EndpointSlices and ServiceAccounts are
read in *all* namespaces, not only in members': a namespace becomes a member by a label, and what was in it by then
must be in the log already. It costs one event for each such object and nothing afterwards (heartbeats are no
events), and spares the ingestor every decision about membership, which is the compiler's.
"""

from __future__ import annotations

import msgspec

from shared.names import MESH_CONFIG
from shared.records.pins import PINNED_KINDS


class Kind(msgspec.Struct, frozen=True):
    """One kind of object."""

    name: str
    group: str
    """Empty: core."""
    plural: str
    version: str = ""
    """Fixed version of a built-in kind; empty: whichever the server prefers (a CRD, which may be missing)."""
    namespace: str = ""
    """Only objects of this namespace; empty: of all."""
    object_name: str = ""
    """Only the object of this name; empty: all."""

    def path(self, version: str) -> str:
        """Path of the collection in the API."""
        root = f"/apis/{self.group}/{version}" if self.group else f"/api/{version}"
        return f"{root}/namespaces/{self.namespace}/{self.plural}" if self.namespace else f"{root}/{self.plural}"


TOKEN_ISSUER = "TokenIssuer"  # noqa: S105 (a kind)


REPORTED = PINNED_KINDS
"""Kinds whose objects are told what became of them: policy and routing. A MeshRootCertificate is told by the CA."""


def kinds(*, mesh_namespace: str) -> tuple[Kind, ...]:
    """All kinds that are watched."""
    return (
        Kind("Namespace", "", "namespaces", "v1"),
        Kind("ServiceAccount", "", "serviceaccounts", "v1"),
        Kind("Service", "", "services", "v1"),
        Kind("EndpointSlice", "discovery.k8s.io", "endpointslices", "v1"),
        Kind("Pod", "", "pods", "v1"),
        Kind("TrafficTarget", "access.smi-spec.io", "traffictargets"),
        Kind("IdentityBinding", "access.smi-spec.io", "identitybindings"),
        Kind("HTTPRouteGroup", "specs.smi-spec.io", "httproutegroups"),
        Kind("TCPRoute", "specs.smi-spec.io", "tcproutes"),
        Kind("UDPRoute", "specs.smi-spec.io", "udproutes"),
        Kind("TrafficSplit", "split.smi-spec.io", "trafficsplits"),
        Kind(
            "MeshConfig",
            "config.openservicemesh.io",
            "meshconfigs",
            namespace=mesh_namespace,
            object_name=MESH_CONFIG,
        ),
        Kind("MeshRootCertificate", "config.openservicemesh.io", "meshrootcertificates", namespace=mesh_namespace),
        Kind("Egress", "policy.openservicemesh.io", "egresses"),
        Kind("IngressBackend", "policy.openservicemesh.io", "ingressbackends"),
        Kind("Retry", "policy.openservicemesh.io", "retries"),
        Kind("UpstreamTrafficSetting", "policy.openservicemesh.io", "upstreamtrafficsettings"),
        Kind("Telemetry", "policy.openservicemesh.io", "telemetries"),
        Kind("ExtensionService", "config.openservicemesh.io", "extensionservices"),
    )


def is_followed(kind: str, namespace: str, name: str, *, mesh_namespace: str) -> bool:
    """Whether events are written of an object: of some kinds only in the mesh's own namespace, or under one name."""
    found = next((one for one in kinds(mesh_namespace=mesh_namespace) if one.name == kind), None)
    if found is None:
        return False
    return found.namespace in ("", namespace) and found.object_name in ("", name)
