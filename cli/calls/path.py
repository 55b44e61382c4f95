"""Follows a call through both sidecars' configuration: listener, route, cluster, endpoint, handshake, access rules.

It reads nothing but the compiled bytes, so it allows no call that the Envoys would refuse. The tests compare it with a
model of the SMI specification, and samples of the same calls with real Envoys.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Literal, TypeVar, cast

import msgspec
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext, UpstreamTlsContext

from cli.calls.http_routing import Peer, RefusedRequest, decided, received, taken
from cli.calls.matching import HttpRequest, UnknownConfigurationError, allowing, trusted
from services.compiler.envoy_names import DENIED, MESH_PROTOCOL
from shared.policy.object_name import ObjectName
from shared.records.snapshot import CDS, EDS, LDS, RDS, ResourceId, Snapshot

M = TypeVar("M", Cluster, ClusterLoadAssignment, Listener, RouteConfiguration)
_TYPES = {Cluster: CDS, ClusterLoadAssignment: EDS, Listener: LDS, RouteConfiguration: RDS}

CallOutcome = Literal["an answer", "400", "403", "404", "431", "503", "refused", "closed", "reset"]
"""The result for the caller: the application's answer, a status of a sidecar, no connection, one that is closed at
once, or a reset."""


class CallPath(msgspec.Struct, frozen=True):
    """One of the paths that a call may take, with its share."""

    cluster: str
    weight: int
    pod: str
    """Key of the proxy at its end; empty if the call reaches none."""
    port: int
    """Port of that pod."""
    sees: CallOutcome
    rule: str
    """The policy that allows it, or why it does not pass."""

    @property
    def passes(self) -> bool:
        """Whether the application is reached."""
        return self.sees == "an answer"


class CallDecision(msgspec.Struct, frozen=True):
    """The decision on a call."""

    chain: str
    """Filter chain of the caller's sidecar that takes it; empty if the caller has no outbound listener."""
    ways: tuple[CallPath, ...]
    """At least one."""

    @property
    def passes(self) -> bool:
        """Whether every path that the call may take reaches the application."""
        return all(way.passes for way in self.ways)


class _ProxyConfiguration:
    """The configuration of one proxy, parsed on demand."""

    def __init__(self, snapshot: Snapshot, key: str, parsed: dict[ResourceId, object]) -> None:
        proxy = snapshot.proxies[key]
        self.snapshot = snapshot
        self.key = key
        self._parsed = parsed
        self.proxy = proxy
        self.identity = f"spiffe://{snapshot.trust_domain}/ns/{proxy.namespace}/sa/{proxy.service_account}"
        self._view = snapshot.views[proxy.workload_class]

    def get(self, message: type[M], name: str) -> M | None:
        type_url = _TYPES[message]
        digest = self._view.get(type_url, {}).get(name)
        if digest is None:
            return None
        identity = type_url, name, digest
        if identity not in self._parsed:
            self._parsed[identity] = message.FromString(self.snapshot.resources[identity].body)
        return cast("M", self._parsed[identity])


def _sort_of(chain: FilterChain) -> tuple[HttpConnectionManager | None, TcpProxy | None, network_rbac.RBAC | None]:
    manager, proxy, guard = None, None, None
    for item in chain.filters:
        kind = item.typed_config.type_url.rpartition(".")[2]
        if kind == "HttpConnectionManager":
            manager = HttpConnectionManager.FromString(item.typed_config.value)
        elif kind == "TcpProxy":
            proxy = TcpProxy.FromString(item.typed_config.value)
        elif kind == "RBAC":
            guard = network_rbac.RBAC.FromString(item.typed_config.value)
        else:
            raise UnknownConfigurationError(f"a filter of kind {kind}")
    return manager, proxy, guard


def _outbound_chain(listener: Listener, host: str, port: int) -> FilterChain:
    address = ipaddress.ip_address(host)
    fallback: FilterChain | None = None
    for chain in listener.filter_chains:
        match = chain.filter_chain_match
        if match.destination_port.value != port:
            continue
        if not match.prefix_ranges:
            fallback = chain
        for part in match.prefix_ranges:
            if address in ipaddress.ip_network(f"{part.address_prefix}/{part.prefix_len.value}"):
                return chain
    return fallback or listener.default_filter_chain


class Sidecars:
    """The sidecars of a mesh at one version (or callers at one and servers at another, as while a change arrives)."""

    def __init__(self, snapshot: Snapshot, pods: Mapping[str, str], *, servers: Snapshot | None = None) -> None:
        self.snapshot = snapshot
        self.pods = pods
        """Address → key of the proxy behind it."""
        self.servers = snapshot if servers is None else servers
        self._address_of = {key: address for address, key in pods.items()}
        self._parsed: dict[ResourceId, object] = {}
        """Parsed resources: many paths share them."""

    def _caller(self, key: str) -> _ProxyConfiguration:
        return _ProxyConfiguration(self.snapshot, key, self._parsed)

    def _server(self, key: str) -> _ProxyConfiguration:
        return _ProxyConfiguration(self.servers, key, self._parsed)

    def decide(self, caller: str, host: str, port: int, request: HttpRequest, *, http: bool = True) -> CallDecision:
        """Decide a call from a proxy to an address; on opaque TCP ports the request does not count.

        `http`: whether the caller speaks HTTP to an address that is not in its sidecar's configuration. Raises
        `LookupError` for a caller that the snapshot does not have.
        """
        served = self._caller(caller)
        listener = served.get(Listener, "outbound")
        if listener is None:
            rule = "no policy lets this caller call anything"
            return CallDecision(
                chain="", ways=(CallPath(cluster="", weight=1, pod="", port=0, sees="refused", rule=rule),)
            )
        chain = _outbound_chain(listener, host, port)
        manager, proxy, _ = _sort_of(chain)
        if manager is not None:
            read = received(request, manager, None)
            if isinstance(read, RefusedRequest):
                ways = [CallPath(cluster="", weight=1, pod="", port=0, sees=read.status, rule=read.why)]
            else:
                ways = self._requests(served, manager.rds.route_config_name, (host, port), read)
        elif proxy is not None and proxy.cluster == DENIED:
            sees: CallOutcome = "403" if http else "closed"
            rule = "no policy lets this caller call that address"
            ways = [CallPath(cluster=DENIED, weight=1, pod="", port=0, sees=sees, rule=rule)]
        elif proxy is not None:
            parts = [(part.name, part.weight) for part in proxy.weighted_clusters.clusters] or [(proxy.cluster, 1)]
            ways = [way for part in parts for way in self._arrive(served, *part, (host, port), None)]
        else:
            raise UnknownConfigurationError(f"chain {chain.name} leads nowhere")
        return CallDecision(chain=chain.name or "default", ways=tuple(ways))

    def dial(self, key: str, service: ObjectName, port: int, request: HttpRequest) -> CallDecision:
        """Decide a call from a proxyless pod to a name: it finds a listener of that name, or nothing."""
        served = self._caller(key)
        dialled = [
            name
            for name in self.snapshot.views[served.proxy.workload_class].get(LDS, {})
            if name.startswith(f"{service.name}.{service.namespace}.svc.") and name.endswith(f":{port}")
        ]
        listener = served.get(Listener, dialled[0]) if dialled else None
        if listener is None:
            rule = "no policy lets this proxyless caller call it, or no proxyless pod is behind it"
            return CallDecision(
                chain="", ways=(CallPath(cluster="", weight=1, pod="", port=0, sees="refused", rule=rule),)
            )
        manager = HttpConnectionManager.FromString(listener.api_listener.api_listener.value)
        ways = self._requests(served, manager.rds.route_config_name, ("", port), request)
        return CallDecision(chain=dialled[0], ways=tuple(ways))

    def plain(self, host: str, port: int) -> CallDecision:
        """Decide a call from a pod without a sidecar, or one that leaves the mesh."""
        sees: CallOutcome = "reset" if host in self.pods else "an answer"
        rule = "a sidecar takes no plaintext from outside the mesh" if sees == "reset" else "no sidecar is there"
        way = CallPath(cluster="", weight=1, pod=self.pods.get(host, ""), port=port, sees=sees, rule=rule)
        return CallDecision(chain=f"{host}:{port}, past all sidecars of the caller", ways=(way,))

    def enter(self, identity: str, server: str, port: int, request: HttpRequest | None) -> CallPath:
        """Decide a connection with a certificate of the mesh that goes past every sidecar but the called pod's.

        Without a request it is opaque TCP. Raises `LookupError` for a pod that the snapshot does not have.
        """
        sees, rule = self._accept(self._server(server), Peer(identity), port, request, frozenset({MESH_PROTOCOL}))
        return CallPath(cluster="", weight=1, pod=server, port=port, sees=sees, rule=rule)

    def _requests(
        self, served: _ProxyConfiguration, routes: str, address: tuple[str, int], request: HttpRequest
    ) -> list[CallPath]:
        configuration = served.get(RouteConfiguration, routes)
        route = None if configuration is None else taken(configuration, request)
        if route is None:
            return [CallPath(cluster="", weight=1, pod="", port=0, sees="503", rule="no route")]
        if route.HasField("direct_response"):
            return [
                CallPath(cluster="", weight=1, pod="", port=0, sees="503", rule="no backend of the split has a weight")
            ]
        weighted = [(part.name, part.weight.value) for part in route.route.weighted_clusters.clusters]
        return [
            way
            for part in weighted or [(route.route.cluster, 1)]
            for way in self._arrive(served, *part, address, request)
        ]

    def _arrive(
        self, served: _ProxyConfiguration, name: str, weight: int, address: tuple[str, int], request: HttpRequest | None
    ) -> Iterable[CallPath]:
        """The path to each endpoint of a cluster that the call may reach."""
        nowhere: CallOutcome = "closed" if request is None else "503"

        def lost(rule: str) -> CallPath:
            return CallPath(cluster=name, weight=weight, pod="", port=0, sees=nowhere, rule=rule)

        cluster = served.get(Cluster, name)
        if cluster is None:
            return [lost("the cluster is not there")]
        if not cluster.transport_socket.name:
            if cluster.type == Cluster.DiscoveryType.EDS:
                return self._plaintext(served, cluster, weight)
            if cluster.type == Cluster.DiscoveryType.ORIGINAL_DST:
                return [msgspec.structs.replace(way, cluster=name) for way in self.plain(*address).ways]
            return [lost("no policy lets this caller call that address")]
        found = [address]
        if cluster.type == Cluster.DiscoveryType.EDS:
            found = self._endpoints(served, cluster)
        if not found:
            return [lost("no pod behind it is ready")]
        context = UpstreamTlsContext.FromString(cluster.transport_socket.typed_config.value)
        peer = Peer(served.identity, self._address_of.get(served.key, ""))
        ways: list[CallPath] = []
        for host, port in found:
            key = self.pods.get(host)
            if key is None or key not in self.servers.proxies:
                ways.append(lost(f"no sidecar answers at {host}"))
                continue
            sees, rule = self._serve(self._server(key), peer, port, request, context)
            ways.append(CallPath(cluster=name, weight=weight, pod=key, port=port, sees=sees, rule=rule))
        return ways

    def _endpoints(self, served: _ProxyConfiguration, cluster: Cluster) -> list[tuple[str, int]]:
        assignment = served.get(ClusterLoadAssignment, cluster.eds_cluster_config.service_name)
        endpoints = (
            [item.endpoint for group in assignment.endpoints for item in group.lb_endpoints] if assignment else []
        )
        return [(one.address.socket_address.address, one.address.socket_address.port_value) for one in endpoints]

    def _plaintext(self, served: _ProxyConfiguration, cluster: Cluster, weight: int) -> list[CallPath]:
        """The paths of a proxyless caller: to proxyless pods, which enforce nothing themselves."""
        found = self._endpoints(served, cluster)
        if not found:
            rule = "no proxyless pod behind it is ready"
            return [CallPath(cluster=cluster.name, weight=weight, pod="", port=0, sees="503", rule=rule)]
        rule = "the configuration of the proxyless caller; a proxyless server enforces nothing"
        return [
            CallPath(cluster=cluster.name, weight=weight, pod=host, port=port, sees="an answer", rule=rule)
            for host, port in found
        ]

    def _serve(
        self,
        server: _ProxyConfiguration,
        caller: Peer,
        port: int,
        request: HttpRequest | None,
        offered: UpstreamTlsContext,
    ) -> tuple[CallOutcome, str]:
        """The outcome of a connection between two sidecars, and the rule that decides it."""
        refused: CallOutcome = "closed" if request is None else "503"
        names = offered.common_tls_context.combined_validation_context.default_validation_context
        if not trusted(names.match_typed_subject_alt_names, server.identity):
            return refused, f"the caller does not expect {server.identity} there"
        return self._accept(server, caller, port, request, frozenset(offered.common_tls_context.alpn_protocols))

    def _accept(
        self,
        server: _ProxyConfiguration,
        caller: Peer,
        port: int,
        request: HttpRequest | None,
        protocols: frozenset[str],
    ) -> tuple[CallOutcome, str]:
        """The outcome of a mutual TLS connection at the called pod's sidecar, and the rule that decides it."""
        refused: CallOutcome = "closed" if request is None else "503"
        listener = server.get(Listener, "inbound")
        for chain in listener.filter_chains if listener else ():
            match = chain.filter_chain_match
            if match.destination_port.value != port or match.transport_protocol != "tls":
                continue
            if not protocols & set(match.application_protocols):
                continue
            context = DownstreamTlsContext.FromString(chain.transport_socket.typed_config.value)
            if not context.require_client_certificate.value:
                raise UnknownConfigurationError("a chain that asks for no certificate")
            expected = context.common_tls_context.combined_validation_context.default_validation_context
            if not trusted(expected.match_typed_subject_alt_names, caller.identity):
                return refused, f"no TrafficTarget lets {caller.identity} connect to port {port}"
            return self._admit(server, chain, caller, request)
        return refused, f"no Service leads to port {port} of the pod"

    def _admit(
        self, server: _ProxyConfiguration, chain: FilterChain, caller: Peer, request: HttpRequest | None
    ) -> tuple[CallOutcome, str]:
        manager, proxy, guard = _sort_of(chain)
        if manager is None:
            rule = "permissive" if guard is None else allowing(guard.rules, caller.identity, None)
            if rule is None:
                return ("closed" if request is None else "503"), f"no TrafficTarget lets {caller.identity} connect"
            assert proxy is not None
            return "an answer", rule
        if request is None:
            return "closed", "an older Service leads to that port of the pod as HTTP, and this is bytes"
        configuration = server.get(RouteConfiguration, manager.rds.route_config_name)
        if configuration is None:
            return "403", "no rules"
        read = received(request, manager, caller)
        verdict = read if isinstance(read, RefusedRequest) else decided(configuration, read, caller)
        return (verdict.status, verdict.why) if isinstance(verdict, RefusedRequest) else ("an answer", verdict)
