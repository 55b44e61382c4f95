"""The two listeners of a proxy. Only their filter chains ever change, which Envoy updates in place.

Neither waits for a client that does not speak: outbound chains are chosen by destination address alone, inbound ones
by the TLS hello of the other sidecar. A connection from outside that no chain is meant for is closed at once; one of
the application's own is handed to what denies it (`names.DENIED`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from envoy.config.core.v3.address_pb2 import CidrRange
from envoy.config.core.v3.base_pb2 import TrafficDirection
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain, FilterChainMatch, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2 import OriginalDst
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.type.v3.hash_policy_pb2 import HashPolicy
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from services.compiler import envoy_names
from services.compiler.render import rbac, request_handling
from services.compiler.render.clusters import address
from services.compiler.render.packing import packed
from services.compiler.render.routes import HTTP_RBAC
from services.compiler.render.tls import ads, server_side
from shared.kubernetes.reserved_ports import INBOUND_PORT, OUTBOUND_PORT
from shared.policy.model import EscapedSlashes
from shared.policy.object_name import ObjectName

_UPGRADES = ("websocket", "CONNECT")
_HANDSHAKE = 10
"""Seconds that a TLS hello, a handshake, and the headers of a request may take where strangers can connect."""
_OWN_HEADERS = 60
"""Seconds that the headers of a request of the application itself may take."""
_OWN_STREAMS = 1024
"""Streams at once on an HTTP/2 connection of the application itself: a client library opens no second one."""
_BUFFER = 256 * 1024
"""Bytes of a connection from outside that wait for the application, in each direction."""


class OutboundChain(NamedTuple):
    """One port of a service that the application may call."""

    service: ObjectName
    hosts: tuple[str, ...]
    """Addresses that mean it."""
    port: int
    clusters: tuple[tuple[str, int], ...] | None
    """For bytes: clusters and weights, none of them meaning that nothing passes. None: HTTP, by routes."""
    host_name: str
    """What HTTP/1.0 clients, which name no host, mean."""
    slashes: EscapedSlashes
    """As the pods of the service read them: both sidecars of a call must agree."""
    sticky: bool = False
    """For bytes: whether a cluster wants to know the client's address."""

    @property
    def name(self) -> str:
        """Also of its route configuration, if it has one."""
        return envoy_names.outbound(self.service, self.port)


class InboundChain(NamedTuple):
    """One port of the application."""

    port: int
    http: bool
    slashes: EscapedSlashes
    callers: tuple[str, ...] | None
    """For bytes: identities that may connect; none: every member."""
    rules: RBAC | None
    """For opaque TCP: the callers that may connect, and by which target."""


def _manager(name: str, slashes: EscapedSlashes, filters: Sequence[HttpFilter]) -> HttpConnectionManager:
    manager = HttpConnectionManager(
        stat_prefix=name,
        rds=Rds(route_config_name=name, config_source=ads()),
        http_filters=[*filters, HttpFilter(name="envoy.filters.http.router", typed_config=packed(Router()))],
        # A tunnel is the application's business once policy has let the request through. Any other upgrade is left
        # out of the request, as servers may ignore it (RFC 9110, 7.8): without that Envoy answers 403.
        upgrade_configs=[HttpConnectionManager.UpgradeConfig(upgrade_type=kind) for kind in _UPGRADES],
        # The application's own time-outs rule.
        stream_idle_timeout=Duration(),
        server_header_transformation=HttpConnectionManager.ServerHeaderTransformation.PASS_THROUGH,
    )
    manager.http_protocol_options.accept_http_10 = True
    manager.http_protocol_options.ignore_http_11_upgrade.append(request_handling.other_than("websocket"))
    request_handling.reads(manager, slashes)
    return manager


def _http(manager: HttpConnectionManager) -> Filter:
    return Filter(name="envoy.filters.network.http_connection_manager", typed_config=packed(manager))


def _tcp(name: str, clusters: Sequence[tuple[str, int]], *, sticky: bool = False) -> Filter:
    proxy = TcpProxy(stat_prefix=name, idle_timeout=Duration())
    if sticky:
        proxy.hash_policy.append(HashPolicy(source_ip=HashPolicy.SourceIp()))
    if len(clusters) > 1:
        proxy.weighted_clusters.clusters.extend(
            TcpProxy.WeightedCluster.ClusterWeight(name=cluster, weight=weight) for cluster, weight in clusters
        )
    else:
        proxy.cluster = clusters[0][0] if clusters else envoy_names.BLACKHOLE
    return Filter(name="envoy.filters.network.tcp_proxy", typed_config=packed(proxy))


def _prefixes(hosts: Iterable[str]) -> list[CidrRange]:
    return [CidrRange(address_prefix=host, prefix_len=UInt32Value(value=128 if ":" in host else 32)) for host in hosts]


@functools.lru_cache(maxsize=4096)
def _outbound_chain(chain: OutboundChain) -> FilterChain:
    # Many listeners have it, and to copy it costs a tenth of making it.
    match = FilterChainMatch(
        destination_port=UInt32Value(value=chain.port),
        prefix_ranges=_prefixes(chain.hosts),
    )
    if chain.clusters is None:
        manager = _manager(chain.name, chain.slashes, [])
        manager.http_protocol_options.default_host_for_http_10 = chain.host_name
        manager.http2_protocol_options.CopyFrom(request_handling.http2(_OWN_STREAMS))
        manager.request_headers_timeout.CopyFrom(Duration(seconds=_OWN_HEADERS))
        found = _http(manager)
    else:
        found = _tcp(chain.name, chain.clusters, sticky=chain.sticky)
    return FilterChain(name=chain.name, filter_chain_match=match, filters=[found])


def _listener(
    name: str, port: int, direction: TrafficDirection, filters: list[ListenerFilter], *, dual: bool
) -> Listener:
    # An IPv6 address cannot be bound where the kernel has no IPv6, so only pods that have one get such a listener.
    where = address("::" if dual else "0.0.0.0", port)  # noqa: S104
    where.socket_address.ipv4_compat = dual
    return Listener(name=name, address=where, traffic_direction=direction, listener_filters=filters)


def _original_destination() -> ListenerFilter:
    return ListenerFilter(name="envoy.filters.listener.original_dst", typed_config=packed(OriginalDst()))


def outbound(chains: Sequence[OutboundChain], *, egress: bool, dual: bool) -> Listener:
    """What the application sends: to services by their addresses, else to where it wanted (egress) or is denied."""
    listener = _listener(
        envoy_names.OUTBOUND_LISTENER, OUTBOUND_PORT, TrafficDirection.OUTBOUND, [_original_destination()], dual=dual
    )
    listener.filter_chains.extend(_outbound_chain(chain) for chain in chains)
    # A connection to the listener's own port would be passed through to itself, for ever.
    own = FilterChainMatch(destination_port=UInt32Value(value=OUTBOUND_PORT))
    listener.filter_chains.append(
        FilterChain(name="own-port", filter_chain_match=own, filters=[_tcp("own-port", [])]),
    )
    default = [(envoy_names.PASSTHROUGH if egress else envoy_names.DENIED, 1)]
    listener.default_filter_chain.CopyFrom(FilterChain(name="default", filters=[_tcp("outbound|default", default)]))
    return listener


def _inbound_chain(chain: InboundChain, trust_domains: Sequence[str]) -> FilterChain:
    name = envoy_names.inbound(chain.port)
    match = FilterChainMatch(
        destination_port=UInt32Value(value=chain.port),
        transport_protocol="tls",
        application_protocols=[envoy_names.MESH_PROTOCOL],
    )
    if chain.http:
        # Rules are in the route configuration, so that a change of policy touches no listener. Without them: deny.
        deny = HttpFilter(name=HTTP_RBAC, typed_config=packed(http_rbac.RBAC(rules=rbac.nothing())))
        # Headers first, so that policy reads those that the application reads.
        manager = _manager(name, chain.slashes, [request_handling.mutation_filter(), deny])
        manager.forward_client_cert_details = HttpConnectionManager.ForwardClientCertDetails.SANITIZE_SET
        manager.set_current_client_cert_details.uri = True
        # HTTP/1.0 requests arrive as 1.1 from the caller's sidecar.
        manager.http_protocol_options.accept_http_10 = False
        manager.http2_protocol_options.CopyFrom(request_handling.http2())
        manager.request_headers_timeout.CopyFrom(Duration(seconds=_HANDSHAKE))
        filters = [_http(manager)]
    else:
        filters = [_tcp(name, [(envoy_names.local(chain.port), 1)])]
        if chain.rules is not None:
            guard = network_rbac.RBAC(rules=chain.rules, stat_prefix=f"{name}|")
            filters.insert(0, Filter(name="envoy.filters.network.rbac", typed_config=packed(guard)))
    # The RBAC filter decides at the first byte of the client, and a server may speak before: for bytes, a caller
    # without right already fails in the TLS handshake.
    return FilterChain(
        name=name,
        filter_chain_match=match,
        filters=filters,
        transport_socket=server_side(trust_domains=trust_domains, identities=chain.callers),
        transport_socket_connect_timeout=Duration(seconds=_HANDSHAKE),
    )


@functools.lru_cache(maxsize=1024)
def _plain_inbound_chain(chain: InboundChain, trust_domains: tuple[str, ...]) -> FilterChain:
    """A chain without rules of its own: many listeners have it."""
    return _inbound_chain(chain, trust_domains)


def inbound(chains: Sequence[InboundChain], *, trust_domains: Sequence[str], dual: bool) -> Listener:
    """What reaches the application: from proven members of the mesh only; plaintext meets no chain and is reset."""
    inspector = ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=packed(TlsInspector()))
    listener = _listener(
        envoy_names.INBOUND_LISTENER,
        INBOUND_PORT,
        TrafficDirection.INBOUND,
        [_original_destination(), inspector],
        dual=dual,
    )
    # For the hello of TLS, by which a chain is chosen. What has not come by then never had a chain, and is closed.
    listener.listener_filters_timeout.CopyFrom(Duration(seconds=_HANDSHAKE))
    listener.per_connection_buffer_limit_bytes.CopyFrom(UInt32Value(value=_BUFFER))
    shared = tuple(trust_domains)
    listener.filter_chains.extend(
        _plain_inbound_chain(chain, shared) if chain.rules is None else _inbound_chain(chain, shared)
        for chain in chains
    )
    # A listener needs a chain. This one never matches, so that a pod without open ports refuses like any other.
    never = FilterChainMatch(transport_protocol="never")
    listener.filter_chains.append(FilterChain(name="never", filter_chain_match=never, filters=[_tcp("never", [])]))
    return listener
