"""Settings of the injector."""

from __future__ import annotations

from typing import Literal

from shared.build import ENVOY_VERSION
from shared.names import WEBHOOK_PORT, XDS_PORT
from shared.service.settings import CommonSettings


class InjectorSettings(CommonSettings, frozen=True, kw_only=True):
    """The injector: the mutating webhook that adds the sidecar to pods."""

    webhook_host: str = "0.0.0.0"  # noqa: S104 (the API server calls from outside the pod)
    """Address of the webhook."""
    webhook_port: int = WEBHOOK_PORT
    """Port of the webhook (HTTPS)."""
    webhook_connections: int = 384
    """Connections to the webhook that may be open, from all sources."""
    webhook_connections_per_source: int = 192
    """Connections that one address may have open."""
    webhook_body_bytes: int = 5_242_880
    """Largest review in bytes; an API server sends objects of up to 3 MiB, and their stored form of up to 1.5 MiB."""
    client_ca_file: str = ""
    """PEM file of the CAs of the API server's client certificate, read again when it changes. Empty: it presents none,
    and any client may send reviews."""
    client_names: tuple[str, ...] = ()
    """Names, separated by commas, of which that certificate must contain one (common name or DNS name); empty: any."""
    client_networks: tuple[str, ...] = ()
    """Networks, separated by commas, from which clients may send reviews, such as `10.0.0.0/28`; empty: any."""
    token_file: str = "/var/run/secrets/meshlog/token"  # noqa: S105 (a path)
    """The injector's own service-account token, audience `meshlog`, with which it authenticates to the CA."""
    envoy_image: str = f"envoyproxy/envoy:distroless-v{ENVOY_VERSION}"
    """Image of the proxy, unless the MeshConfig names one."""
    init_image: str = "meshlog/meshlog"
    """Image with `meshlog sidecar-init`, unless the MeshConfig names one."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Pull policy of both images: `Always`, `IfNotPresent` or `Never`."""
    pull_secret: str = ""
    """Name of a Secret in each member namespace with credentials of the registry; empty: none."""
    edge_host: str = ""
    """Name of the xDS edge's Service; empty: `meshlog-xds-edge` in the mesh's namespace."""
    edge_port: int = XDS_PORT
    """Port of the edge."""
    cluster_domain: str = "cluster.local"
    """Domain of the cluster's Services."""
    native_sidecars: bool = True
    """Whether the cluster has native sidecar containers (Kubernetes 1.29 and newer)."""
    concurrency: int = 2
    """Worker threads of a proxy."""
    proxy_mark: int = 0
    """Mark of the proxy's own packets, if user ids cannot distinguish them; 0: the user id does."""
    proxy_uid: int = 1500
    """User id of the proxy, which no application may use."""
    refuse_net_admin: bool = False
    """Whether containers with NET_ADMIN, SYS_ADMIN or all privileges, which can undo the redirect, are refused rather
    than warned of."""
    token_seconds: int = 3600
    """Lifetime of a pod's token in seconds; the kubelet renews it before it expires."""
    patience: float = 2.0
    """Seconds to wait for a namespace that the log does not contain yet."""
