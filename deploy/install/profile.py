"""What differs from one installation to another, and the presets that most people want.

A preset is a profile: `minimal` is one of everything (it is how the embedded mesh runs), `ha` survives the loss of
any node, `large` is `ha` for thousands of proxies. `values` in the chart has the same fields.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shared.build import NATS_VERSION, VERSION
from shared.errors import BadInputError
from shared.eventlog.durable import COPIES
from shared.io.decoding import UndecodableError, convert
from shared.names import MESH_NAMESPACE, NATS_PORT

Manifest = dict[str, Any]

SERVICES: tuple[str, ...] = ("ingestor", "compiler", "ca", "xds-edge", "injector")


class ResourceRequirements(msgspec.Struct, frozen=True):
    """What a container asks for, and the memory that it may not exceed. No CPU limit: it would only add latency."""

    cpu: str
    memory: str
    limit: str


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What differs from one installation to another."""

    mesh_name: str = "meshlog"
    namespace: str = MESH_NAMESPACE
    cluster: str = "local"
    """Name of the cluster in the log."""
    trust_domain: str = "cluster.local"
    image: str = f"meshlog/meshlog:{VERSION}"
    """Image of every service and of the sidecar's init container; `{service}` in it stands for the service's name."""
    nats_image: str = f"nats:{NATS_VERSION}-alpine"
    """One with a shell, as those are whose name ends in `-alpine`; a digest may follow (`…-alpine@sha256:…`)."""
    pull_policy: str = "IfNotPresent"
    pull_secret: str = ""
    """Name of a Secret with credentials for the registry, in the control plane's namespace and, for sidecars, in each
    member namespace; empty: none."""
    ingestors: int = 1
    compilers: int = 1
    cas: int = 1
    edges: int = 2
    injectors: int = 1
    log_level: str = "info"
    ca_provider: str = "builtin"
    """`builtin`, `vault`, `cert-manager`, or another that is installed."""
    distribution_settle: int = 90
    """Seconds that kubelets may take to refresh a mounted trust bundle: a new root signs no earlier."""
    nats_nodes: int = 1
    """Servers of our own NATS: 1, 3 or 5. More than one keep that many copies (3 at most) of each stream."""
    durable: bool = False
    """Whether ingestor, compiler and CA refuse to start on a log that can lose what it acknowledged."""
    nats_url: str = ""
    """An external NATS, `tls://host:4222`; empty: one of our own."""
    nats_accounts: bool = False
    """Whether the external NATS has each stream in an account of its own, as ours has (docs/install.md)."""
    nats_secured: bool = False
    """TLS, and one user for each service with the subjects of its row and no others."""
    nats_data: str = ""
    """Directory of the node that keeps JetStream's files; empty: a claim each, or an emptyDir if there is no size."""
    nats_size: str = ""
    """Size of each NATS server's claim, `10Gi`; empty: no claim."""
    nats_class: str = ""
    """Storage class of the claims; empty: the cluster's default."""
    gateway_secret: str = ""
    """`namespace/name` of the Secret for an ingress gateway that MeshConfig names; empty: the CA may write none."""
    vault_secret: str = ""
    """Name of a Secret of the mesh's namespace with a token of Vault, which the CA may read; empty: it needs none."""
    cert_manager: bool = False
    """Whether the CA may make CertificateRequests: for a rotation to cert-manager; where that signs from the start
    (`ca_provider`) it may anyway."""
    root_secret: str = ""
    """Name of another Secret of the mesh's namespace that keeps a root's keys, which the CA may read and write."""
    cluster_trust_bundle: str = ""
    """Name of a ClusterTrustBundle that the CA keeps current, where the API has that kind; empty: none."""
    native_sidecars: bool = True
    """Whether pods may have native sidecars: Kubernetes 1.29 and newer. `meshlog install` and Helm ask the server."""
    proxy_mark: int = 0
    """Mark of the sidecar's own packets, where every container has the same user; 0: known by the user id 1500."""
    webhook_client_ca: str = ""
    """Name of a ConfigMap of the mesh's namespace whose `ca.crt` vouches for the client certificate of the API server;
    empty: it presents none to webhooks."""
    webhook_client_name: str = ""
    """Common name or DNS name of that certificate; empty: any of that CA."""
    webhook_networks: str = ""
    """Networks, separated by commas, that the API server calls webhooks from; empty: any."""
    priority_class: str = ""
    """PriorityClass of every pod; empty: the cluster's default. Some clusters refuse `system-cluster-critical` here."""
    spread: bool = False
    """Replicas on different nodes and zones, and budgets for disruptions."""
    autoscale: int = 0
    """Edges at most, by an autoscaler; 0: as many as `edges`, always."""
    network_policies: bool = False
    """Whether only those who must can reach a service's port."""
    metrics_namespace: str = ""
    """Namespace whose pods may read metrics (9091, and 8222 of NATS) where network policies are on; empty: none may."""
    resources: dict[str, ResourceRequirements] = {}
    """By service, and `nats`."""

    def replicas(self, service: str) -> int:
        """How many of a service."""
        counts = (self.ingestors, self.compilers, self.cas, self.edges, self.injectors)
        return counts[SERVICES.index(service)]

    def image_of(self, service: str) -> str:
        """The image of a service."""
        return self.image.replace("{service}", service)

    @property
    def copies(self) -> int:
        """Copies of each stream."""
        return min(3, self.nats_nodes)

    @property
    def log_servers(self) -> str:
        """Where services find the log."""
        if self.nats_url:
            return self.nats_url
        scheme = "tls" if self.nats_secured else "nats"
        return f"{scheme}://nats.{self.namespace}.svc.cluster.local:{NATS_PORT}"


_USUAL = {
    "ingestor": ResourceRequirements("100m", "128Mi", "512Mi"),
    "compiler": ResourceRequirements("250m", "192Mi", "2Gi"),
    "ca": ResourceRequirements("50m", "128Mi", "256Mi"),
    "xds-edge": ResourceRequirements("250m", "192Mi", "1Gi"),
    "injector": ResourceRequirements("50m", "96Mi", "256Mi"),
    "nats": ResourceRequirements("250m", "256Mi", "1Gi"),
}
_LARGE = {
    **_USUAL,
    "ingestor": ResourceRequirements("500m", "256Mi", "1Gi"),
    "compiler": ResourceRequirements("2", "1Gi", "6Gi"),
    "xds-edge": ResourceRequirements("1", "512Mi", "3Gi"),
    "nats": ResourceRequirements("1", "1Gi", "4Gi"),
}
_HA = Profile(
    ingestors=2,
    compilers=2,
    cas=2,
    edges=3,
    injectors=2,
    nats_nodes=3,
    durable=True,
    nats_secured=True,
    nats_size="10Gi",
    spread=True,
    autoscale=6,
    network_policies=True,
    resources=_USUAL,
)
PRESETS: dict[str, Profile] = {
    "minimal": Profile(edges=1, nats_secured=True, nats_size="4Gi", network_policies=True, resources=_USUAL),
    "ha": _HA,
    "large": msgspec.structs.replace(
        _HA, compilers=3, edges=5, autoscale=20, injectors=3, nats_size="100Gi", resources=_LARGE
    ),
}


def chosen(preset: str, settings: dict[str, str]) -> Profile:
    """A preset with some fields set to other values, as `--set name=value` gives them; raises `BadInputError`."""
    if preset not in PRESETS:
        raise BadInputError("install/preset", f"there is no preset {preset!r}: one of {', '.join(PRESETS)}")
    profile = PRESETS[preset]
    known = msgspec.to_builtins(profile)
    for name, value in settings.items():
        field = name.replace("-", "_")
        if field not in known or isinstance(known[field], dict):
            raise BadInputError("install/setting", f"is no setting; one of {', '.join(sorted(known))}", about=name)
        known[field] = value if isinstance(known[field], str) else _scalar(name, value)
    try:
        profile = convert(Profile, known)
    except UndecodableError as error:
        raise BadInputError("install/setting", str(error)) from error
    return _checked(profile)


def _scalar(name: str, value: str) -> int | bool:
    if value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if not value.isdecimal():
        raise BadInputError("install/setting", f"needs a whole number, true or false, not {value!r}", about=name)
    return int(value)


def _checked(profile: Profile) -> Profile:
    if profile.nats_nodes not in {1, 3, 5}:
        raise BadInputError("install/nats", "must be 1, 3 or 5: an even number survives no more", about="nats_nodes")
    if min(profile.replicas(service) for service in SERVICES) < 1:
        raise BadInputError("install/replicas", "there must be at least one of each service")
    if profile.autoscale and profile.autoscale < profile.edges:
        raise BadInputError("install/replicas", "is less than `edges`", about="autoscale")
    if profile.durable and profile.copies < COPIES:
        raise BadInputError("install/durable", f"needs nats_nodes={COPIES} or more, or durable=false", about="durable")
    return profile


def labels(name: str, profile: Profile) -> dict[str, str]:
    """Labels that every object of ours carries; `uninstall` finds them by the mesh's name."""
    return {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/part-of": "meshlog",
        "app.kubernetes.io/instance": profile.mesh_name,
    }


def metadata(name: str, profile: Profile) -> dict[str, Any]:
    """Metadata of an object in the control plane's namespace."""
    return {"name": name, "namespace": profile.namespace, "labels": labels(name, profile)}
