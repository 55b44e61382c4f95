"""Names and ports that several parts of a mesh must agree on, each in one place. Pure.

A name that only one part uses stands there; one that a manifest, a service and a command share stands here, and
`tests/unit/shared/test_names.py` finds the literal elsewhere. Ports of a pod that belong to its proxy are in
`shared.kubernetes.reserved_ports`, labels and annotations in `shared.projected_objects`, names of SDS secrets in
`shared.records.snapshot`.
"""

from __future__ import annotations

MESH_NAMESPACE = "meshlog-system"
"""The mesh's own namespace by default."""
MESH_CONFIG = "osm-mesh-config"
"""Name of the MeshConfig that is in force, in the mesh's own namespace."""

INGESTOR = "meshlog-ingestor"
"""Deployment, service account and field manager of the ingestor; the same for the other services."""
COMPILER = "meshlog-compiler"
CA = "meshlog-ca"
XDS_EDGE = "meshlog-xds-edge"
"""Also the Service that proxies connect to."""
INJECTOR = "meshlog-injector"
"""Also the Service that the API server calls."""

CA_SECRET = "meshlog-ca"  # noqa: S105 (the name of a Secret)
"""Secret with the keys of the CA, in the mesh's own namespace."""
TRUST_BUNDLE = "meshlog-trust-bundle"
"""ConfigMap in each member namespace with the roots of the mesh."""
TRUST_BUNDLE_KEY = "bundle.pem"
"""Its entry, and the file that it is in a pod."""
LABEL_INJECT_CA = "meshlog.io/inject-ca"
"""Label of webhook configurations that the CA writes the trust bundle into."""

DENIED_CLUSTER = "denied"
"""Cluster in the bootstrap of each proxy that answers HTTP with 403 and closes all else: the compiler routes to it."""

HTTP_PORT = 9091
"""Port of each service for `/healthz`, `/readyz` and `/metrics`."""
XDS_PORT = 15128
"""Port of the edge for proxies."""
WEBHOOK_PORT = 9090
"""Port of the injector for the API server (HTTPS); its Service has 443."""
NATS_PORT = 4222
"""Port of NATS for clients."""


def mutating_webhook(mesh_name: str) -> str:
    """Return the name of the MutatingWebhookConfiguration of a mesh."""
    return f"meshlog-webhook-{mesh_name}"


def validating_webhook(mesh_name: str) -> str:
    """Return the name of the ValidatingWebhookConfiguration of a mesh."""
    return f"meshlog-validator-{mesh_name}"


def service_host(service: str, namespace: str, domain: str = "cluster.local") -> str:
    """Return the name of a Service in the DNS of the cluster."""
    return f"{service}.{namespace}.svc.{domain}"
