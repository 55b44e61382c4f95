"""Clusters: of a port of a service, of the application behind the proxy, and the two that lead out or nowhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster, UpstreamConnectionOptions
from envoy.config.core.v3.address_pb2 import Address, SocketAddress, TcpKeepalive
from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from services.compiler import envoy_names
from services.compiler.render import request_handling
from services.compiler.render.packing import packed
from services.compiler.render.tls import ads, client_side
from shared.policy.object_name import ObjectName

_UNBOUNDED = 2**32 - 1
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_EDS_PATIENCE = 5
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_PROBES = 20, 5, 3
"""Seconds of silence, seconds between probes, and probes after which a peer that vanished is given up: 35 s in all."""


def unbounded() -> CircuitBreakers:
    """No limits."""
    # Envoy's default of 1,024 connections is a limit that no user configured.
    most = UInt32Value(value=_UNBOUNDED)
    return CircuitBreakers(
        thresholds=[
            CircuitBreakers.Thresholds(
                max_connections=most, max_pending_requests=most, max_requests=most, max_retries=most
            )
        ]
    )


def _base(name: str, *, http: bool) -> Cluster:
    cluster = Cluster(name=name, connect_timeout=Duration(seconds=5), circuit_breakers=unbounded())
    if http:
        # Upstream speaks what downstream spoke: gRPC stays HTTP/2, WebSocket stays HTTP/1.1.
        options = HttpProtocolOptions(
            use_downstream_protocol_config=HttpProtocolOptions.UseDownstreamHttpConfig(
                http_protocol_options=Http1ProtocolOptions(), http2_protocol_options=request_handling.http2()
            )
        )
        options.common_http_protocol_options.max_headers_count.CopyFrom(UInt32Value(value=request_handling.MAX_HEADERS))
        options.common_http_protocol_options.max_response_headers_kb.CopyFrom(
            UInt32Value(value=request_handling.MAX_HEADERS_KIB)
        )
        cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(packed(options))
    return cluster


def _watch_peer(cluster: Cluster) -> None:
    """Probe silent peers: a keep-alive of the application ends at its own sidecar and never reaches the peer."""
    keepalive = TcpKeepalive(
        keepalive_time=UInt32Value(value=_KEEPALIVE_IDLE),
        keepalive_interval=UInt32Value(value=_KEEPALIVE_INTERVAL),
        keepalive_probes=UInt32Value(value=_KEEPALIVE_PROBES),
    )
    cluster.upstream_connection_options.CopyFrom(UpstreamConnectionOptions(tcp_keepalive=keepalive))


def address(host: str, port: int) -> Address:
    """A TCP address."""
    return Address(socket_address=SocketAddress(address=host, port_value=port))


def service(
    where: ObjectName,
    port: int,
    *,
    http: bool,
    server_name: str,
    identities: Sequence[str],
    trust_domains: Sequence[str],
    sticky: bool = False,
) -> Cluster:
    """One port of a service, over mutual TLS, with endpoints by EDS.

    `sticky`: an endpoint for each address of a client, the same in every sidecar and at every time, as long as the
    endpoints are the same.
    """
    cluster = _base(envoy_names.outbound(where, port), http=http)
    _watch_peer(cluster)
    cluster.type = Cluster.DiscoveryType.EDS
    cluster.transport_socket.CopyFrom(
        client_side(server_name=server_name, identities=identities, trust_domains=trust_domains)
    )
    if sticky:
        cluster.lb_policy = Cluster.LbPolicy.RING_HASH
    # A changed cluster waits for its endpoints again, and a proxy that subscribes to a name it already holds is sent
    # nothing (incremental xDS): it would wait until it gives up. A new version of a cluster asks under a new name.
    digest = hashlib.sha256(cluster.SerializeToString(deterministic=True)).hexdigest()[:8]
    cluster.eds_cluster_config.service_name = f"{cluster.name}~{digest}"
    cluster.eds_cluster_config.eds_config.CopyFrom(ads(patience=_EDS_PATIENCE))
    return cluster


def addressed(
    where: ObjectName,
    port: int,
    *,
    http: bool,
    server_name: str,
    identities: Sequence[str],
    trust_domains: Sequence[str],
) -> Cluster:
    """One port of a headless service: the pod that the client addressed, over mutual TLS."""
    cluster = _base(envoy_names.direct(where, port), http=http)
    _watch_peer(cluster)
    cluster.type = Cluster.DiscoveryType.ORIGINAL_DST
    cluster.lb_policy = Cluster.LbPolicy.CLUSTER_PROVIDED
    cluster.transport_socket.CopyFrom(
        client_side(server_name=server_name, identities=identities, trust_domains=trust_domains)
    )
    return cluster


def application(port: int, *, http: bool, dual: bool) -> Cluster:
    """The application behind the proxy.

    In a pod with IPv6 addresses (`dual`) it may listen on either loopback address: Envoy tries the second address
    when the first one refuses.
    """
    cluster = _base(envoy_names.local(port), http=http)
    cluster.type = Cluster.DiscoveryType.STATIC
    endpoint = LbEndpoint(endpoint=Endpoint(address=address("127.0.0.1", port)))
    if dual:
        endpoint.endpoint.additional_addresses.add(address=address("::1", port))
    cluster.load_assignment.CopyFrom(
        ClusterLoadAssignment(cluster_name=cluster.name, endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])])
    )
    return cluster


def blackhole() -> Cluster:
    """No endpoint at all: what is sent here is closed at once."""
    cluster = Cluster(
        name=envoy_names.BLACKHOLE, type=Cluster.DiscoveryType.STATIC, connect_timeout=Duration(seconds=1)
    )
    cluster.load_assignment.cluster_name = envoy_names.BLACKHOLE
    return cluster


def passthrough() -> Cluster:
    """Where the application wanted to, as it is: outside the mesh."""
    cluster = _base(envoy_names.PASSTHROUGH, http=False)
    _watch_peer(cluster)
    cluster.type = Cluster.DiscoveryType.ORIGINAL_DST
    cluster.lb_policy = Cluster.LbPolicy.CLUSTER_PROVIDED
    return cluster


def endpoints(name: str, hosts: Sequence[tuple[str, int]]) -> ClusterLoadAssignment:
    """Endpoints of a cluster, under the name that it asks for them."""
    assignment = ClusterLoadAssignment(cluster_name=name)
    if hosts:
        found = [LbEndpoint(endpoint=Endpoint(address=address(host, port))) for host, port in hosts]
        assignment.endpoints.append(LocalityLbEndpoints(lb_endpoints=found))
    return assignment
