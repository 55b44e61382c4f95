"""Settings of the injector."""

from __future__ import annotations

import ipaddress
import os
from typing import Literal

from services.injector.core.configuration import Installation
from services.injector.http.connection_gate import ConnectionLimits
from services.injector.http.request import HttpLimits
from services.injector.http.server import ClientAccess
from shared.build import ENVOY_VERSION, VERSION
from shared.errors import BadInputError
from shared.names import WEBHOOK_PORT, XDS_EDGE, XDS_PORT, service_host
from shared.service.settings import CommonSettings


class InjectorSettings(CommonSettings, frozen=True, kw_only=True):
    """Settings of the injector: the mutating webhook that gives pods their sidecar."""

    webhook_host: str = "0.0.0.0"  # noqa: S104 (the API server calls from outside the pod)
    """Address of the webhook."""
    webhook_port: int = WEBHOOK_PORT
    """Port of the webhook (HTTPS)."""
    webhook_connections: int = 384
    """Connections to the webhook that may be open, of all sources."""
    webhook_connections_per_source: int = 192
    """Connections that one address may have open."""
    webhook_body_bytes: int = 5_242_880
    """Bytes that one review may have; an API server sends objects of up to 3 MiB, and the stored form of 1.5 MiB."""
    client_ca_file: str = ""
    """PEM file of the CAs that vouch for the API server's client certificate, read again when it changes; empty: it
    presents none, and reviews are taken from everybody."""
    client_names: tuple[str, ...] = ()
    """Names, separated by commas, of which that certificate must bear one (common name or DNS name); empty: any."""
    client_networks: tuple[str, ...] = ()
    """Networks, separated by commas, that reviews may come from, `10.0.0.0/28`; empty: any."""
    token_file: str = "/var/run/secrets/meshlog/token"  # noqa: S105 (a path)
    """The injector's own service-account token, audience `meshlog`: what it proves itself to the CA with."""
    envoy_image: str = f"envoyproxy/envoy:distroless-v{ENVOY_VERSION}"
    """Image of the proxy, unless the MeshConfig names one."""
    init_image: str = "meshlog/meshlog"
    """Image that holds `meshlog sidecar-init`, unless the MeshConfig names one."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Of both images: `Always`, `IfNotPresent` or `Never`."""
    pull_secret: str = ""
    """Name of a Secret in each member namespace with credentials for their registry; empty: none."""
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
    """Mark of the proxy's own packets where user ids cannot tell them apart; 0: the user id does."""
    proxy_uid: int = 1500
    """User id of the proxy; no application may run as it."""
    refuse_net_admin: bool = False
    """Whether containers with NET_ADMIN, SYS_ADMIN or all privileges, which can undo the redirect, are refused rather
    than warned of."""
    token_seconds: int = 3600
    """Lifetime of a pod's token in seconds; the kubelet renews it in time."""
    patience: float = 2.0
    """Seconds to wait for a namespace that the log does not have yet."""

    @property
    def limits(self) -> HttpLimits:
        """What connections and requests may cost."""
        caps = ConnectionLimits(connections=self.webhook_connections, per_source=self.webhook_connections_per_source)
        return HttpLimits(connections=caps, body_bytes=self.webhook_body_bytes)

    @property
    def access(self) -> ClientAccess:
        """Who may ask. Raises `BadInputError` for settings that cannot be."""
        if self.client_names and not self.client_ca_file:
            raise BadInputError("inject/client-names", "needs client_ca_file as well", about="client_names")
        try:
            networks = tuple(ipaddress.ip_network(one, strict=False) for one in self.client_networks)
        except ValueError as error:
            raise BadInputError("inject/networks", f"{error}; write 10.0.0.0/28", about="client_networks") from error
        return ClientAccess(networks=networks, names=self.client_names)

    @property
    def installation(self) -> Installation:
        """What is the same for all pods."""
        host = self.edge_host or service_host(XDS_EDGE, self.namespace, self.cluster_domain)
        return Installation(
            mesh_name=self.mesh_name,
            namespace=self.namespace,
            trust_domain=self.trust_domain,
            build=VERSION,
            envoy_image=self.envoy_image,
            init_image=self.init_image,
            pull_policy=self.pull_policy,
            pull_secret=self.pull_secret,
            edge_host=host,
            edge_port=self.edge_port,
            native_sidecars=self.native_sidecars,
            concurrency=self.concurrency,
            ipv6=":" in os.environ.get("KUBERNETES_SERVICE_HOST", ""),
            proxy_mark=self.proxy_mark,
            proxy_uid=self.proxy_uid,
            refuse_net_admin=self.refuse_net_admin,
            token_seconds=self.token_seconds,
        )
