"""What the injector takes from its settings, in one struct that the pure core is given."""

from __future__ import annotations

from typing import Literal

import msgspec

from shared.names import MESH_NAMESPACE, TRUST_BUNDLE, XDS_EDGE, XDS_PORT


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all pods until the injector is configured anew."""

    mesh_name: str = "meshlog"
    namespace: str = MESH_NAMESPACE
    trust_domain: str = "cluster.local"
    build: str
    envoy_image: str
    init_image: str
    pull_policy: str = "IfNotPresent"
    pull_secret: str = ""
    """Of both images; empty: none."""
    edge_host: str
    edge_port: int = XDS_PORT
    native_sidecars: bool = True
    concurrency: int = 2
    ipv6: bool = False
    """Whether the first address of pods is an IPv6 address, as that of the API's Service is."""
    proxy_mark: int = 0
    """Mark of the proxy's own packets; 0: they are known by `proxy_uid`."""
    proxy_uid: int = 1500
    refuse_net_admin: bool = False
    token_seconds: int = 3600
    trust_bundle: str = TRUST_BUNDLE
    """ConfigMap in each member namespace, written by the CA, key `bundle.pem`."""

    @property
    def mode(self) -> Literal["mark", "uid"]:
        """How the redirect knows the proxy's own traffic."""
        return "mark" if self.proxy_mark else "uid"

    @property
    def proxy_image(self) -> str:
        """Image of the proxy unless the MeshConfig names one: without native sidecars it must hold a shell."""
        return self.envoy_image if self.native_sidecars else self.envoy_image.replace("distroless-", "")

    @property
    def edge_identity(self) -> str:
        """SPIFFE id that the edge must prove."""
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{XDS_EDGE}"
