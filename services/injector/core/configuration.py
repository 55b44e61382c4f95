"""The settings that concern all pods, as one struct for the core."""

from __future__ import annotations

from typing import Literal

import msgspec

from services.injector.settings import InjectorSettings
from shared.build import VERSION
from shared.names import MESH_NAMESPACE, TRUST_BUNDLE, XDS_EDGE, XDS_PORT, service_host


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all pods, until the injector is reconfigured."""

    mesh_name: str = "meshlog"
    namespace: str = MESH_NAMESPACE
    trust_domain: str = "cluster.local"
    build: str
    envoy_image: str
    init_image: str
    pull_policy: str = "IfNotPresent"
    pull_secret: str = ""
    """Name of the Secret with credentials for both images; empty for none."""
    edge_host: str
    edge_port: int = XDS_PORT
    native_sidecars: bool = True
    concurrency: int = 2
    ipv6: bool = False
    """Whether the first address of pods is an IPv6 address."""
    proxy_mark: int = 0
    """Mark of the proxy's own packets; 0 if they are recognised by `proxy_uid`."""
    proxy_uid: int = 1500
    refuse_net_admin: bool = False
    token_seconds: int = 3600
    trust_bundle: str = TRUST_BUNDLE
    """Name of the ConfigMap that the CA writes into each member namespace, key `bundle.pem`."""

    @property
    def mode(self) -> Literal["mark", "uid"]:
        """How the redirect recognises the proxy's own traffic."""
        return "mark" if self.proxy_mark else "uid"

    @property
    def proxy_image(self) -> str:
        """Image of the proxy unless the MeshConfig names one. Without native sidecars it must contain a shell."""
        return self.envoy_image if self.native_sidecars else self.envoy_image.replace("distroless-", "")

    @property
    def edge_identity(self) -> str:
        """SPIFFE id that the edge's certificate must contain."""
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{XDS_EDGE}"


def installation(settings: InjectorSettings, *, ipv6: bool) -> Installation:
    """Return the installation of the settings. `ipv6` is whether the first address of pods is an IPv6 address."""
    return Installation(
        mesh_name=settings.mesh_name,
        namespace=settings.namespace,
        trust_domain=settings.trust_domain,
        build=VERSION,
        envoy_image=settings.envoy_image,
        init_image=settings.init_image,
        pull_policy=settings.pull_policy,
        pull_secret=settings.pull_secret,
        edge_host=settings.edge_host or service_host(XDS_EDGE, settings.namespace, settings.cluster_domain),
        edge_port=settings.edge_port,
        native_sidecars=settings.native_sidecars,
        concurrency=settings.concurrency,
        ipv6=ipv6,
        proxy_mark=settings.proxy_mark,
        proxy_uid=settings.proxy_uid,
        refuse_net_admin=settings.refuse_net_admin,
        token_seconds=settings.token_seconds,
    )
