"""The projection: of each Kubernetes object, only the fields that can change a proxy's configuration.

A struct here *is* the projection of its kind. The ingestor decodes the API server's bytes into it (unknown fields are
dropped) and encodes it again; if the bytes equal those of the last event, there is no change: that filters heartbeats,
`managedFields` and conditions. The compiler and other services decode the same struct from the event. A field that is
added later gets a default, so that older events can still be decoded.

Policy kinds (SMI and the mesh's own) keep their whole `spec` as it was written, in `PolicyObject`: the compiler
interprets it, also for versions that are defined later.
"""

from __future__ import annotations

from typing import Any

import msgspec

MESHLOG_PREFIX = "meshlog.io/"
OSM_PREFIX = "openservicemesh.io/"

LABEL_MONITORED_BY = "openservicemesh.io/monitored-by"
"""Label of a namespace that is a member; its value is the mesh's name."""
LABEL_IGNORE = "openservicemesh.io/ignore"
LABEL_SERVICE_NAME = "kubernetes.io/service-name"
"""Label of an EndpointSlice: the name of its Service."""
AFFINITY_SECONDS = 10_800
"""Seconds that a client keeps its endpoint, the default of a Service with `sessionAffinity: ClientIP`."""
ANNOTATION_INJECTION = "openservicemesh.io/sidecar-injection"
ANNOTATION_CHANGE_SET = "meshlog.io/change-set"
ANNOTATION_PERMISSIVE = "meshlog.io/permissive"
"""On a namespace: `true` or `false`, whether its pods accept calls from every member; default: as in the MeshConfig."""
ANNOTATION_CALLS = "meshlog.io/calls"
"""On a namespace: namespaces, by commas, whose services are configured for its pods besides its own; by default all."""
ANNOTATION_ESCAPED_SLASHES = "meshlog.io/escaped-slashes"
"""On a namespace: `reject`, `decode` or `keep`, what its pods' sidecars do with `%2F` and `%5C` in paths; by
default as in the MeshConfig."""
ANNOTATION_FORWARDERS = "meshlog.io/trusted-forwarders"
"""On a namespace: callers (`namespace/serviceaccount`, by commas) whose `x-forwarded-*` headers its pods get as sent,
besides those of the MeshConfig."""
ANNOTATION_PROXYLESS = "meshlog.io/proxyless"
"""`true` on a pod without a sidecar whose gRPC library speaks xDS itself."""
ANNOTATION_SIDECAR = "meshlog.io/sidecar"
"""Set by the injector on each pod that it gave a sidecar; the value is the injector's build."""


class Meta(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The part of `metadata` that matters to every kind."""

    name: str
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    """Only those whose prefix is `meshlog.io/` or `openservicemesh.io/`; the ingestor drops the rest."""
    creation_timestamp: str = ""
    """RFC 3339, in steps of one second: the older object wins a conflict."""
    deletion_timestamp: str = ""


class Namespace(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Core `v1`; whether it is a member of the mesh is in its labels."""

    metadata: Meta


class ServiceAccount(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Core `v1`: the identity of the pods that run as it."""

    metadata: Meta


class ServicePort(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One port of a Service."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    app_protocol: str = ""
    target_port: int | str = 0
    """Number, or name of a container port; 0: the same as `port`."""


class ClientIpAffinity(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Parameters of `sessionAffinity: ClientIP`."""

    timeout_seconds: int = AFFINITY_SECONDS


class SessionAffinityConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """`spec.sessionAffinityConfig` of a Service."""

    client_ip: ClientIpAffinity | None = msgspec.field(name="clientIP", default=None)


class ServiceSpec(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """`spec` of a Service."""

    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    """`None` (the word) for a headless Service."""
    cluster_ips: list[str] = msgspec.field(name="clusterIPs", default_factory=list[str])
    selector: dict[str, str] = {}
    ports: list[ServicePort] = []
    external_name: str = ""
    publish_not_ready_addresses: bool = False
    session_affinity: str = "None"
    """Or `ClientIP`: a client's connections go to one endpoint."""
    internal_traffic_policy: str = "Cluster"
    """Or `Local`: to endpoints of the caller's node only, which the mesh does not do."""
    traffic_distribution: str = ""
    """Endpoints that are preferred (`PreferClose`, …), which the mesh does not do."""
    session_affinity_config: SessionAffinityConfig | None = None


class Service(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Core `v1`."""

    metadata: Meta
    spec: ServiceSpec = ServiceSpec()


class TargetRef(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The object behind an endpoint, mostly a Pod."""

    kind: str = ""
    name: str = ""
    namespace: str = ""
    uid: str = ""


class EndpointConditions(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Conditions of an endpoint, each true, false or unknown."""

    ready: bool | None = None
    """None means true, as in Kubernetes."""
    serving: bool | None = None
    terminating: bool | None = None


class SliceEndpoint(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One endpoint of a slice."""

    addresses: list[str]
    conditions: EndpointConditions = EndpointConditions()
    hostname: str = ""
    target_ref: TargetRef | None = None
    node_name: str = ""
    zone: str = ""


class SlicePort(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One port of a slice; no number means all ports."""

    name: str = ""
    port: int | None = None
    protocol: str = "TCP"
    app_protocol: str = ""


class EndpointSlice(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """`discovery.k8s.io/v1`; its Service is named by the label `kubernetes.io/service-name`."""

    metadata: Meta
    address_type: str = "IPv4"
    endpoints: list[SliceEndpoint] = []
    ports: list[SlicePort] | None = None


class ContainerPort(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A port that a container declares."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"


class Container(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A container of a pod, by its ports."""

    name: str
    ports: list[ContainerPort] = []


class PodSpec(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """`spec` of a Pod."""

    service_account_name: str = "default"
    host_network: bool = False
    hostname: str = ""
    subdomain: str = ""
    containers: list[Container] = []


class PodIp(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One of the addresses of a pod."""

    ip: str = ""


class PodStatus(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """`status` of a Pod."""

    phase: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: list[PodIp] = msgspec.field(name="podIPs", default_factory=list[PodIp])


class Pod(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Readiness is not here: it reaches us through EndpointSlices."""

    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class PolicyObject(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A TrafficTarget, HTTPRouteGroup, TCPRoute, UDPRoute, TrafficSplit, MeshConfig, … as it was written.

    Objects of SMI's early versions keep their fields at the top level; the ingestor moves every top-level field
    except `apiVersion`, `kind`, `metadata` and `status` into `spec` when there is no `spec`.
    """

    metadata: Meta
    spec: dict[str, Any] = {}


class TokenIssuer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The issuer of the cluster's service-account tokens: an input like any other (kind `TokenIssuer`, name `cluster`).

    The ingestor reads it from `/.well-known/openid-configuration` and `/openid/v1/jwks`; edges and CAs verify
    tokens by it, also while Kubernetes is away.
    """

    issuer: str
    jwks: dict[str, Any]
    """RFC 7517 key set."""


KINDS: dict[str, type[msgspec.Struct]] = {
    "Namespace": Namespace,
    "ServiceAccount": ServiceAccount,
    "Service": Service,
    "EndpointSlice": EndpointSlice,
    "Pod": Pod,
    "TrafficTarget": PolicyObject,
    "IdentityBinding": PolicyObject,
    "HTTPRouteGroup": PolicyObject,
    "TCPRoute": PolicyObject,
    "UDPRoute": PolicyObject,
    "TrafficSplit": PolicyObject,
    "MeshConfig": PolicyObject,
    "MeshRootCertificate": PolicyObject,
    "Egress": PolicyObject,
    "IngressBackend": PolicyObject,
    "Retry": PolicyObject,
    "UpstreamTrafficSetting": PolicyObject,
    "Telemetry": PolicyObject,
    "ExtensionService": PolicyObject,
    "TokenIssuer": TokenIssuer,
}
"""Kind of an event → the struct of its projected object."""
