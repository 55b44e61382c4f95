"""Settings of the injector."""

from __future__ import annotations

from services.injector.configuration import Installation
from shared.build import ENVOY_VERSION, VERSION
from shared.settings import CommonSettings


class InjectorSettings(CommonSettings, frozen=True, kw_only=True):
    """Settings of the injector: the mutating webhook that gives pods their sidecar."""

    webhook_host: str = "0.0.0.0"  # noqa: S104 (the API server calls from outside the pod)
    """Address of the webhook."""
    webhook_port: int = 9090
    """Port of the webhook (HTTPS)."""
    token_file: str = "/var/run/secrets/meshlog/token"  # noqa: S105 (a path)
    """The injector's own service-account token, audience `meshlog`: what it proves itself to the CA with."""
    envoy_image: str = f"envoyproxy/envoy:distroless-v{ENVOY_VERSION}"
    """Image of the proxy, unless the MeshConfig names one."""
    init_image: str = "meshlog/meshlog"
    """Image that holds `meshlog sidecar-init`, unless the MeshConfig names one."""
    edge_host: str = ""
    """Name of the xDS edge's Service; empty: `meshlog-xds-edge` in the mesh's namespace."""
    edge_port: int = 15128
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
    token_seconds: int = 3600
    """Lifetime of a pod's token in seconds; the kubelet renews it in time."""
    patience: float = 2.0
    """Seconds to wait for a namespace that the log does not have yet."""

    @property
    def installation(self) -> Installation:
        """What is the same for all pods."""
        host = self.edge_host or f"meshlog-xds-edge.{self.namespace}.svc.{self.cluster_domain}"
        return Installation(
            mesh_name=self.mesh_name,
            namespace=self.namespace,
            trust_domain=self.trust_domain,
            build=VERSION,
            envoy_image=self.envoy_image,
            init_image=self.init_image,
            edge_host=host,
            edge_port=self.edge_port,
            native_sidecars=self.native_sidecars,
            concurrency=self.concurrency,
            proxy_mark=self.proxy_mark,
            proxy_uid=self.proxy_uid,
            token_seconds=self.token_seconds,
        )
