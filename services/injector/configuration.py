"""What the injector takes from its settings and from the MeshConfig, in one struct that the pure core is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from shared.errors import BadInputError


class Traffic(msgspec.Struct, frozen=True, rename="camel"):
    """`spec.traffic` of the MeshConfig, as far as new pods are concerned."""

    outbound_ip_range_exclusion_list: list[str] = msgspec.field(name="outboundIPRangeExclusionList", default=[])
    outbound_ip_range_inclusion_list: list[str] = msgspec.field(name="outboundIPRangeInclusionList", default=[])
    outbound_port_exclusion_list: list[int] = []
    inbound_port_exclusion_list: list[int] = []
    network_interface_exclusion_list: list[str] = []


class Sidecar(msgspec.Struct, frozen=True, rename="camel"):
    """`spec.sidecar` of the MeshConfig."""

    enable_privileged_init_container: bool = False
    log_level: str = "error"
    envoy_image: str = ""
    init_container_image: str = ""
    local_proxy_mode: str = "Localhost"
    resources: dict[str, Any] = {}
    max_inbound_connections: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    """Connections from outside that a sidecar holds at once; more are closed at once. 16 kB each while they say
    nothing after their hello."""


class MeshSpec(msgspec.Struct, frozen=True):
    """`spec` of the MeshConfig; without one, the defaults."""

    sidecar: Sidecar = Sidecar()
    traffic: Traffic = Traffic()


LOG_LEVELS = ("trace", "debug", "info", "warning", "warn", "error", "critical", "off")


def read_mesh_spec(spec: Mapping[str, Any]) -> MeshSpec:
    """Read a MeshConfig's `spec`; unknown fields belong to others. Raises `BadInputError`."""
    try:
        mesh = msgspec.convert(_without_nulls(spec), type=MeshSpec, strict=False)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadInputError(
            "inject/mesh-config", f"cannot be used for new pods ({error})", about="MeshConfig"
        ) from error
    if mesh.sidecar.log_level not in LOG_LEVELS:
        raise BadInputError(
            "inject/log-level", f"sidecar.logLevel is none of {', '.join(LOG_LEVELS)}", about="MeshConfig"
        )
    return mesh


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}  # pyright: ignore[reportUnknownVariableType]
    return value


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all pods until the injector is configured anew."""

    mesh_name: str = "meshlog"
    namespace: str = "meshlog-system"
    trust_domain: str = "cluster.local"
    build: str
    envoy_image: str
    init_image: str
    edge_host: str
    edge_port: int = 15128
    native_sidecars: bool = True
    concurrency: int = 2
    proxy_mark: int = 0
    """Mark of the proxy's own packets; 0: they are known by `proxy_uid`."""
    proxy_uid: int = 1500
    refuse_net_admin: bool = False
    token_seconds: int = 3600
    trust_bundle: str = "meshlog-trust-bundle"
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
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/meshlog-xds-edge"
