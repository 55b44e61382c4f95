"""A view as a static bootstrap: what `envoy --mode validate` checks.

Whatever is fetched in a mesh stands in the file instead: endpoints inside clusters, routes inside connection
managers, a certificate made for the test in place of the secrets.
"""

from __future__ import annotations

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext

from shared.snapshot import CDS, EDS, LDS, RDS, Snapshot


class Material:
    """A key, its certificate and the root, as PEM."""

    def __init__(self, *, key: str, chain: str, roots: str) -> None:
        self.key = key
        self.chain = chain
        self.roots = roots


def _inline(context: CommonTlsContext, material: Material) -> None:
    del context.tls_certificate_sds_secret_configs[:]
    certificate = context.tls_certificates.add()
    certificate.certificate_chain.inline_string = material.chain
    certificate.private_key.inline_string = material.key
    names = context.combined_validation_context.default_validation_context
    names.trusted_ca.inline_string = material.roots
    context.validation_context.CopyFrom(names)


def _secure(socket: TransportSocket, material: Material) -> None:
    if not socket.typed_config.value:
        return
    for kind in (UpstreamTlsContext, DownstreamTlsContext):
        context = kind()
        if socket.typed_config.Unpack(context):
            _inline(context.common_tls_context, material)
            socket.typed_config.Pack(context)


def _chain(chain: FilterChain, routes: dict[str, RouteConfiguration], material: Material) -> None:
    _secure(chain.transport_socket, material)
    for item in chain.filters:
        manager = HttpConnectionManager()
        if item.typed_config.Unpack(manager):
            found = routes[manager.rds.route_config_name]
            manager.route_config.CopyFrom(found)
            item.typed_config.Pack(manager)


def bootstrap(snapshot: Snapshot, workload_class: str, material: Material) -> Bootstrap:
    """Everything that a class is served, in one static configuration."""
    view = snapshot.views[workload_class]

    def bodies(type_url: str) -> list[bytes]:
        return [
            snapshot.resources[type_url, name, digest].body for name, digest in sorted(view.get(type_url, {}).items())
        ]

    found = Bootstrap()
    endpoints = {item.cluster_name: item for item in map(ClusterLoadAssignment.FromString, bodies(EDS))}
    routes = {item.name: item for item in map(RouteConfiguration.FromString, bodies(RDS))}
    for cluster in map(Cluster.FromString, bodies(CDS)):
        if cluster.type == Cluster.DiscoveryType.EDS:
            cluster.type = Cluster.DiscoveryType.STATIC
            cluster.load_assignment.CopyFrom(endpoints[cluster.eds_cluster_config.service_name])
            cluster.load_assignment.cluster_name = cluster.name
            cluster.ClearField("eds_cluster_config")
        _secure(cluster.transport_socket, material)
        found.static_resources.clusters.append(cluster)
    for listener in map(Listener.FromString, bodies(LDS)):
        for chain in (*listener.filter_chains, listener.default_filter_chain):
            _chain(chain, routes, material)
        found.static_resources.listeners.append(listener)
    found.node.id, found.node.cluster = "test", "test"
    return found
