"""Writes a proxy's configuration as one static bootstrap, for `envoy --mode validate`.

Resources that are fetched in a mesh are inlined: endpoints in clusters, routes in connection managers, and a generated
certificate in place of the secrets, which only the edge has.
"""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
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

from shared.records.snapshot import CDS, EDS, LDS, RDS, Snapshot


class TlsMaterial:
    """A key, its certificate and the root, as PEM."""

    def __init__(self, *, key: str, chain: str, roots: str) -> None:
        self.key = key
        self.chain = chain
        self.roots = roots


def stand_in(trust_domain: str) -> TlsMaterial:
    """A generated key and certificate that no peer trusts; the real ones never leave the edge."""
    key = ec.generate_private_key(ec.SECP256R1())
    nameless = x509.Name([])
    now = dt.datetime.now(dt.UTC)
    names = [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}/stand-in")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(nameless)
        .issuer_name(nameless)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return TlsMaterial(key=private.decode(), chain=pem, roots=pem)


def _inline(context: CommonTlsContext, material: TlsMaterial) -> None:
    del context.tls_certificate_sds_secret_configs[:]
    certificate = context.tls_certificates.add()
    certificate.certificate_chain.inline_string = material.chain
    certificate.private_key.inline_string = material.key
    names = context.combined_validation_context.default_validation_context
    names.trusted_ca.inline_string = material.roots
    context.validation_context.CopyFrom(names)


def _secure(socket: TransportSocket, material: TlsMaterial) -> None:
    if not socket.typed_config.value:
        return
    for kind in (UpstreamTlsContext, DownstreamTlsContext):
        context = kind()
        if socket.typed_config.Unpack(context):
            _inline(context.common_tls_context, material)
            socket.typed_config.Pack(context)


def _chain(chain: FilterChain, routes: dict[str, RouteConfiguration], material: TlsMaterial) -> None:
    _secure(chain.transport_socket, material)
    for item in chain.filters:
        manager = HttpConnectionManager()
        if item.typed_config.Unpack(manager):
            found = routes[manager.rds.route_config_name]
            manager.route_config.CopyFrom(found)
            item.typed_config.Pack(manager)


def bootstrap(snapshot: Snapshot, workload_class: str, material: TlsMaterial) -> Bootstrap:
    """All resources of a class, in one static configuration."""
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
    found.node.id, found.node.cluster = workload_class, "meshlog"
    return found
