"""Consistency of a snapshot: whether each view refers to what it holds, and holds what it refers to. Pure.

A proxy waits for a resource that it was referred to and never gets (Envoy: a listener without its route configuration
does not start, a cluster without its endpoints warms until it times out), and a resource that nothing refers to is
never asked for. Neither is refused, so it shows only as silence. `inconsistencies` finds both; the compiler must never
publish one. The edge asks it in debug mode, `meshlog replay --verify` of each version, `meshlog why` of one class.

The rule is that of go-control-plane (`Snapshot.Consistent`), and the xDS protocol's about the four types together:
https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#eventual-consistency-considerations
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from shared.names import DENIED_CLUSTER
from shared.records.snapshot import CDS, EDS, LDS, RDS, Resource, ResourceId, Snapshot, resource_hash

if TYPE_CHECKING:
    from envoy.config.listener.v3.listener_components_pb2 import Filter
    from envoy.config.listener.v3.listener_pb2 import Listener
    from envoy.config.route.v3.route_pb2 import RouteConfiguration

STATIC_CLUSTERS = frozenset({DENIED_CLUSTER})
"""Clusters that routes and listeners may name although no view holds them: the bootstrap of a proxy does."""
_SIDECAR_LISTENERS = frozenset({"inbound", "outbound"})
_SHORT = {CDS: "cluster", EDS: "endpoints", LDS: "listener", RDS: "route"}


class References(NamedTuple):
    """What a resource refers to, and what is wrong with it alone."""

    clusters: frozenset[str] = frozenset()
    endpoints: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    faults: tuple[str, ...] = ()


class Checker:
    """Checks one version after another and reads each resource once. Mutable: one owner."""

    def __init__(self) -> None:
        self.known: dict[ResourceId, References] = {}
        """What was read, at most twice as much as a snapshot holds."""

    def check(self, snapshot: Snapshot, classes: Collection[str] | None = None) -> list[str]:
        """Return what is inconsistent, one sentence each, sorted; of these classes, or of the whole snapshot (None).

        Only of the whole snapshot it is known which resources and classes nothing uses.
        """
        chosen = snapshot.views.keys() if classes is None else snapshot.views.keys() & classes
        found = [sentence for name in chosen for sentence in self._view(snapshot, name)]
        if classes is None:
            found.extend(_unused(snapshot))
        if len(self.known) > 2 * len(snapshot.resources):
            self.known = {key: value for key, value in self.known.items() if key in snapshot.resources}
        return sorted(found)

    def _view(self, snapshot: Snapshot, workload_class: str) -> Iterator[str]:
        view = snapshot.views[workload_class]
        wanted: dict[str, dict[str, str]] = {CDS: {}, EDS: {}, RDS: {}}
        for type_url, names in view.items():
            for name, digest in names.items():
                resource = snapshot.resources.get((type_url, name, digest))
                about = f"class {workload_class}: {_SHORT.get(type_url, type_url)} {name}"
                if resource is None:
                    yield f"{about}@{digest} has no body"
                    continue
                references = self._read((type_url, name, digest), resource)
                yield from (f"{about} {fault}" for fault in references.faults)
                for kind, referred in zip((CDS, EDS, RDS), references, strict=False):
                    wanted[kind].update(dict.fromkeys(referred, about))
        yield from _unmet(view, wanted)
        for type_url in (EDS, RDS):
            for name in view.get(type_url, {}).keys() - wanted[type_url].keys():
                yield f"class {workload_class}: {_SHORT[type_url]} {name} is not referred to"
        listeners = _SIDECAR_LISTENERS & view.get(LDS, {}).keys()
        for name in _SIDECAR_LISTENERS - listeners if listeners else ():
            yield f"class {workload_class}: listener {name} is missing"

    def _read(self, identity: ResourceId, resource: Resource) -> References:
        known = self.known.get(identity)
        if known is None:
            known = self.known[identity] = references(identity, resource)
        return known


def inconsistencies(snapshot: Snapshot, classes: Collection[str] | None = None) -> list[str]:
    """Return what is inconsistent in a snapshot, one sentence each, sorted; see `Checker.check`."""
    return Checker().check(snapshot, classes)


def references(identity: ResourceId, resource: Resource) -> References:
    """Read what a resource that is held under this identity refers to."""
    type_url, name, digest = identity
    faults: list[str] = []
    if (resource.type_url, resource.name, resource.hash) != identity:
        faults.append(f"is held as {digest}, and its resource is {resource.name}@{resource.hash}")
    elif resource_hash(type_url, resource.body) != digest:
        faults.append(f"has other bytes than its hash {digest} says")
    try:
        named, found = _parsed(type_url, resource.body)
    except ValueError as error:
        return References(faults=(*faults, f"cannot be read ({error})"))
    if named != name:
        faults.append(f"has a body that is named {named!r}")
    return found._replace(faults=(*faults, *found.faults))


def _unmet(view: dict[str, dict[str, str]], wanted: dict[str, dict[str, str]]) -> Iterator[str]:
    held = {
        CDS: STATIC_CLUSTERS | view.get(CDS, {}).keys(),
        EDS: view.get(EDS, {}).keys(),
        RDS: view.get(RDS, {}).keys(),
    }
    for type_url, names in wanted.items():
        for name in names.keys() - held[type_url]:
            yield f"{names[name]} refers to {_SHORT[type_url]} {name}, which is not there"


def _unused(snapshot: Snapshot) -> Iterator[str]:
    used = {
        (kind, name, digest)
        for view in snapshot.views.values()
        for kind, names in view.items()
        for name, digest in names.items()
    }
    for type_url, name, digest in snapshot.resources.keys() - used:
        yield f"{_SHORT.get(type_url, type_url)} {name}@{digest} is in no view"
    members = {proxy.workload_class for proxy in snapshot.proxies.values()}
    for name in snapshot.views.keys() - members:
        yield f"class {name} has no proxy"
    for key, proxy in snapshot.proxies.items():
        if proxy.workload_class not in snapshot.views:
            yield f"proxy {key} is of class {proxy.workload_class}, which has no view"


def _parsed(type_url: str, body: bytes) -> tuple[str, References]:
    """Return the name in a body, and what it refers to. Raises `ValueError` for bytes that are no such message."""
    from google.protobuf.message import DecodeError

    reader = {CDS: _cluster, EDS: _endpoints, LDS: _listener, RDS: _route}.get(type_url)
    if reader is None:
        raise ValueError(f"a type that no compiler renders: {type_url}")
    try:
        return reader(body)
    except DecodeError as error:
        raise ValueError(str(error)) from error


def _cluster(body: bytes) -> tuple[str, References]:
    from envoy.config.cluster.v3.cluster_pb2 import Cluster

    found = Cluster.FromString(body)
    if found.type != Cluster.DiscoveryType.EDS:
        return found.name, References()
    # Envoy asks for the endpoints of a cluster by its own name unless another is set.
    return found.name, References(endpoints=frozenset({found.eds_cluster_config.service_name or found.name}))


def _endpoints(body: bytes) -> tuple[str, References]:
    from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

    return ClusterLoadAssignment.FromString(body).cluster_name, References()


def _route(body: bytes) -> tuple[str, References]:
    from envoy.config.route.v3.route_pb2 import RouteConfiguration

    found = RouteConfiguration.FromString(body)
    hosts = list(found.virtual_hosts)
    faults = [f"names virtual host {name} twice" for name in _repeated(host.name for host in hosts)]
    faults += [
        f"has domain {name} in two virtual hosts"
        for name in _repeated(domain for host in hosts for domain in dict.fromkeys(host.domains))
    ]
    return found.name, References(clusters=_clusters_of(found), faults=tuple(faults))


def _clusters_of(routes: RouteConfiguration) -> frozenset[str]:
    clusters: set[str] = set()
    for host in routes.virtual_hosts:
        for route in host.routes:
            clusters.update(part.name for part in route.route.weighted_clusters.clusters)
            clusters.update([route.route.cluster] if route.route.cluster else [])
    return frozenset(clusters)


def _listener(body: bytes) -> tuple[str, References]:
    from envoy.config.listener.v3.listener_pb2 import Listener

    found = Listener.FromString(body)
    chains = list(found.filter_chains)
    faults = [f"names filter chain {name} twice" for name in _repeated(chain.name for chain in chains if chain.name)]
    # Envoy refuses a listener with two equal matches.
    matches = [chain.filter_chain_match.SerializeToString(deterministic=True) for chain in chains]
    faults += [
        f"has the match of filter chain {chains[matches.index(match)].name} twice" for match in _repeated(matches)
    ]
    clusters, routes = set[str](), set[str]()
    for config in _configurations(found):
        one, other = _followed(config)
        clusters |= one
        routes |= other
    return found.name, References(frozenset(clusters), routes=frozenset(routes), faults=tuple(faults))


def _configurations(listener: Listener) -> Iterator[Any]:
    """The configuration of each filter of a listener, also of one that gRPC's own clients read."""
    filters: list[Filter] = [one for chain in listener.filter_chains for one in chain.filters]
    for one in (*filters, *listener.default_filter_chain.filters):
        yield one.typed_config
    if listener.HasField("api_listener"):
        yield listener.api_listener.api_listener


def _followed(config: Any) -> tuple[set[str], set[str]]:
    """Clusters and route configurations that a filter refers to."""
    from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
        HttpConnectionManager,
    )
    from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy

    if config.type_url.endswith(".HttpConnectionManager"):
        manager = HttpConnectionManager.FromString(config.value)
        clusters = set(_clusters_of(manager.route_config))
        return clusters, {manager.rds.route_config_name} if manager.HasField("rds") else set()
    if config.type_url.endswith(".TcpProxy"):
        proxy = TcpProxy.FromString(config.value)
        clusters = {part.name for part in proxy.weighted_clusters.clusters}
        return clusters | ({proxy.cluster} if proxy.cluster else set()), set()
    return set(), set()


def _repeated(values: Iterable[Any]) -> list[Any]:
    """Values that come more than once, each once."""
    seen: dict[Any, int] = {}
    for value in values:
        seen[value] = seen.get(value, 0) + 1
    return [value for value, count in seen.items() if count > 1]
