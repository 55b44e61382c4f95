"""Resources in the form that gRPC's own xDS clients take: gRFC A27 (listeners, clusters, endpoints) and A28 (routes).

Such a client asks for a listener by the name that it dials, finds an HTTP connection manager in its `api_listener`, and
goes on from there. Route configurations are those of sidecars: what gRPC does not know in them it passes over. It is
plaintext: there is no sidecar on this side that would hold a certificate.
"""

from __future__ import annotations

from collections.abc import Sequence

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import Locality
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.api_listener_pb2 import ApiListener
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from google.protobuf.wrappers_pb2 import UInt32Value

from services.compiler.render.clusters import address, unbounded
from services.compiler.render.packing import packed
from services.compiler.render.tls import ads

LOCALITY = "mesh"


def listener(name: str, routes: str) -> Listener:
    """What a dialled name leads to: a route configuration."""
    manager = HttpConnectionManager(
        rds=Rds(route_config_name=routes, config_source=ads()),
        # gRFC A39: the last filter must be the router.
        http_filters=[HttpFilter(name="envoy.filters.http.router", typed_config=packed(Router()))],
    )
    return Listener(name=name, api_listener=ApiListener(api_listener=packed(manager)))


def cluster(name: str) -> Cluster:
    """One port of a service, in turn over its endpoints."""
    found = Cluster(
        name=name,
        type=Cluster.DiscoveryType.EDS,
        lb_policy=Cluster.LbPolicy.ROUND_ROBIN,
        circuit_breakers=unbounded(),
    )
    found.eds_cluster_config.service_name = name
    found.eds_cluster_config.eds_config.CopyFrom(ads())
    return found


def endpoints(name: str, hosts: Sequence[tuple[str, int]]) -> ClusterLoadAssignment:
    """Endpoints of a cluster. gRPC wants a locality with a weight: without one it takes none of them."""
    assignment = ClusterLoadAssignment(cluster_name=name)
    if hosts:
        assignment.endpoints.append(
            LocalityLbEndpoints(
                locality=Locality(region=LOCALITY),
                load_balancing_weight=UInt32Value(value=1),
                lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=address(host, port))) for host, port in hosts],
            )
        )
    return assignment
