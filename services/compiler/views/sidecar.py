"""Resources of workloads with a sidecar: the queries that render each, and which of them a class refers to."""

from __future__ import annotations

from typing import NamedTuple

from envoy.config.rbac.v3.rbac_pb2 import RBAC

from services.compiler import envoy_names
from services.compiler.derive.classes import WorkloadClass
from services.compiler.derive.membership import is_permissive, mesh_config, spiffe_ids, trust_domains
from services.compiler.derive.policy.reachable_services import Scope, grant, grants_to, reachable, without_split
from services.compiler.derive.policy.splits import route, routes
from services.compiler.derive.request_handling import RequestHandling, believed, reading
from services.compiler.derive.services.offers import OfferedPort, accounts, addresses, age, endpoints, is_sticky, port
from services.compiler.engine import Query, query
from services.compiler.ir import OpenPort, Rendered, Route
from services.compiler.mesh_state import MeshState
from services.compiler.render import clusters, listeners, rbac
from services.compiler.render import routes as route_configurations
from services.compiler.render.packing import rendered
from shared.policy.object_name import ObjectName


class Ref(NamedTuple):
    """A resource, by how it is made."""

    factory: Query[MeshState, ..., Rendered]
    arguments: tuple[object, ...]


def host_name(mesh: MeshState, service: ObjectName) -> str:
    """The full name of a service."""
    return f"{service.name}.{service.namespace}.svc.{mesh.settings.service_domain}"


def _identities(mesh: MeshState, service: ObjectName) -> list[str]:
    return [identity for account in accounts(mesh, service) for identity in spiffe_ids(mesh, account)]


def _offered(mesh: MeshState, service: ObjectName, number: int) -> OfferedPort:
    found = port(mesh, service, number)
    if found is None:
        raise LookupError(f"{service} has no port {number}")
    return found


@query
def _service_cluster(mesh: MeshState, service: ObjectName, number: int) -> tuple[Rendered, str]:
    """The cluster of a port, and the name that it asks for its endpoints by."""
    cluster = clusters.service(
        service,
        number,
        http=_offered(mesh, service, number).protocol == "http",
        server_name=host_name(mesh, service),
        identities=_identities(mesh, service),
        trust_domains=trust_domains(mesh),
        sticky=is_sticky(mesh, service),
    )
    return rendered(cluster.name, cluster), cluster.eds_cluster_config.service_name


@query
def service_cluster(mesh: MeshState, service: ObjectName, number: int) -> Rendered:
    """The cluster of a port of a service."""
    return _service_cluster(mesh, service, number)[0]


@query
def service_endpoints(mesh: MeshState, service: ObjectName, number: int) -> Rendered:
    """The endpoints of a port of a service."""
    name = _service_cluster(mesh, service, number)[1]
    return rendered(name, clusters.endpoints(name, endpoints(mesh, service, number)))


@query
def addressed_cluster(mesh: MeshState, service: ObjectName, number: int) -> Rendered:
    """The cluster that reaches the addressed pod of a headless service."""
    cluster = clusters.addressed(
        service,
        number,
        http=_offered(mesh, service, number).protocol == "http",
        server_name=host_name(mesh, service),
        identities=_identities(mesh, service),
        trust_domains=trust_domains(mesh),
    )
    return rendered(cluster.name, cluster)


def _own_cluster(mesh: MeshState, service: ObjectName, number: int) -> str:
    headless = addresses(mesh, service).headless
    return envoy_names.direct(service, number) if headless else envoy_names.outbound(service, number)


@query
def outbound_routes(mesh: MeshState, service: ObjectName, number: int) -> Rendered:
    """The route configuration of an HTTP port of a service."""
    found = route(mesh, service, number)
    if found is None:
        raise LookupError(f"{service} has no port {number}")
    message = route_configurations.outbound(found, _own_cluster(mesh, service, number))
    return rendered(message.name, message)


@query
def bare_routes(mesh: MeshState, service: ObjectName, number: int) -> Rendered:
    """The same as for a service without a split: for callers whose sidecars do not take the split."""
    found = route(mesh, service, number)
    if found is None:
        raise LookupError(f"{service} has no port {number}")
    message = route_configurations.outbound(found._replace(split=None), _own_cluster(mesh, service, number))
    return rendered(message.name, message)


@query
def _outbound_chain(mesh: MeshState, service: ObjectName, number: int, splits: bool) -> listeners.OutboundChain | None:  # noqa: FBT001 (arguments of a query are its identity)
    found = route(mesh, service, number)
    if found is None:
        return None
    if not splits:
        found = found._replace(split=None)
    spread: tuple[tuple[str, int], ...] | None = None
    if found.protocol == "tcp":
        # A split by HTTP requests cannot be applied to bytes: they go to the root itself.
        whole = found if found.split is None or found.split.matches is None else found._replace(split=None)
        spread = tuple(route_configurations.shares(whole, _own_cluster(mesh, service, number)))
    return listeners.OutboundChain(
        service=service,
        hosts=addresses(mesh, service).hosts,
        port=number,
        clusters=spread,
        host_name=host_name(mesh, service),
        slashes=reading(mesh, service.namespace).slashes,
        sticky=found.sticky and spread is not None,
    )


@query
def outbound_chains(mesh: MeshState, scope: Scope) -> tuple[listeners.OutboundChain, ...]:
    """The filter chains of all classes of a scope, by name; chains that no address leads to are left out."""
    claimed: set[tuple[str, int]] = set()
    chains: list[listeners.OutboundChain] = []
    without = without_split(mesh, scope)
    # Pods behind two headless services have the same address in both: the older service has it, or Envoy would
    # refuse the whole listener.
    for service in sorted(reachable(mesh, scope), key=lambda name: age(mesh, name)):
        for found in routes(mesh, service):
            chain = _outbound_chain(mesh, service, found.port, service not in without)
            if chain is None:
                continue
            hosts = tuple(host for host in chain.hosts if (host, chain.port) not in claimed)
            claimed.update((host, chain.port) for host in hosts)
            if hosts:
                chains.append(chain._replace(hosts=hosts))
    return tuple(sorted(chains, key=lambda chain: chain.name))


@query
def outbound_listener(mesh: MeshState, scope: Scope) -> Rendered:
    """The outbound listener of all classes of a scope."""
    message = listeners.outbound(outbound_chains(mesh, scope), egress=mesh_config(mesh).egress, dual=scope.dual)
    return rendered(message.name, message)


@query
def application_cluster(mesh: MeshState, opened: OpenPort, dual: bool) -> Rendered:  # noqa: ARG001, FBT001 (a query)
    """The cluster of the application behind the proxy; `dual`: its pod has IPv6 addresses."""
    cluster = clusters.application(opened.number, http=opened.protocol == "http", dual=dual)
    return rendered(cluster.name, cluster)


@query
def _policy(mesh: MeshState, target: ObjectName) -> bytes:
    """What a traffic target lets through, in bytes."""
    found = grant(mesh, target)
    return b"" if found is None else rbac.policy(found)


def _policies(mesh: MeshState, account: ObjectName) -> rbac.Policies:
    return [(one, _policy(mesh, one.target)) for one in grants_to(mesh, account)]


@query
def inbound_routes(
    mesh: MeshState, account: ObjectName | None, number: int, forwarders: tuple[ObjectName, ...]
) -> Rendered:
    """The callers, and their requests, that a port of an account's pods accepts (None: of permissive accounts)."""
    if account is None or is_permissive(mesh, account.namespace):
        rules, named = rbac.everyone(), frozenset[str]()
    else:
        grants = grants_to(mesh, account)
        rules, named = rbac.for_requests(_policies(mesh, account), number), rbac.headers(grants, number)
    message = route_configurations.inbound(number, rules, named=named, forwarders=believed(mesh, forwarders))
    return rendered(message.name, message)


def _reading(mesh: MeshState, workload_class: WorkloadClass) -> RequestHandling:
    account = workload_class.account
    return workload_class.reading if account is None else reading(mesh, account.namespace)


@query
def inbound_listener(mesh: MeshState, workload_class: WorkloadClass) -> Rendered:
    """The inbound listener of a class."""
    account = workload_class.account
    slashes = _reading(mesh, workload_class).slashes
    chains: list[listeners.InboundChain] = []
    alike: dict[tuple[ObjectName, ...], tuple[tuple[str, ...], RBAC]] = {}
    for opened in workload_class.open_ports:
        callers, rules = None, None
        if opened.protocol == "tcp" and account is not None and not is_permissive(mesh, account.namespace):
            grants = grants_to(mesh, account)
            opening = tuple(one.target for one in grants if rbac.opens_bytes(one, opened.number))
            if opening not in alike:
                policies = _policies(mesh, account)
                alike[opening] = (
                    tuple(rbac.callers(grants, opened.number)),
                    rbac.for_connections(policies, opened.number),
                )
            callers, rules = alike[opening]
        chains.append(listeners.InboundChain(opened.number, opened.protocol == "http", slashes, callers, rules))
    message = listeners.inbound(chains, trust_domains=trust_domains(mesh), dual=workload_class.dual)
    return rendered(message.name, message)


@query
def blackhole(mesh: MeshState) -> Rendered:  # noqa: ARG001 (a query has a context)
    """The cluster that closes at once."""
    return rendered(envoy_names.BLACKHOLE, clusters.blackhole())


@query
def passthrough(mesh: MeshState) -> Rendered:  # noqa: ARG001 (a query has a context)
    """The cluster that leads out of the mesh."""
    return rendered(envoy_names.PASSTHROUGH, clusters.passthrough())


def _ref(factory: Query[MeshState, ..., Rendered], *arguments: object) -> Ref:
    return Ref(factory, arguments)


def _route_refs(mesh: MeshState, found: Route, *, splits: bool) -> list[Ref]:
    """Everything that calls to one port of a service need.

    Clusters of backends of weight 0, and the root's own, are there too: when a weight changes, or the split goes,
    requests find a cluster that is ready.
    """
    service, number = found.service, found.port
    reached = [share.service for share in (found.split.shares if found.split and splits else ())]
    refs: list[Ref] = []
    if addresses(mesh, service).headless:
        refs.append(_ref(addressed_cluster, service, number))
        reached = [backend for backend in reached if backend != service]
    else:
        reached.append(service)
    for backend in dict.fromkeys(reached):
        refs.extend((_ref(service_cluster, backend, number), _ref(service_endpoints, backend, number)))
    if found.protocol == "http":
        refs.append(_ref(outbound_routes if splits else bare_routes, service, number))
    return refs


@query
def outbound_refs(mesh: MeshState, scope: Scope) -> tuple[Ref, ...]:
    """Resources that a scope needs to call others.

    Also a workload that may call nothing has an outbound listener: it answers HTTP clients that they are denied.
    """
    chains, egress, without = outbound_chains(mesh, scope), mesh_config(mesh).egress, without_split(mesh, scope)
    refs: dict[Ref, None] = {_ref(outbound_listener, scope): None}
    for chain in chains:
        found = route(mesh, chain.service, chain.port)
        if found is not None:
            refs.update(dict.fromkeys(_route_refs(mesh, found, splits=chain.service not in without)))
    refs[_ref(blackhole)] = None
    if egress:
        refs[_ref(passthrough)] = None
    return tuple(refs)


def own_refs(mesh: MeshState, workload_class: WorkloadClass) -> tuple[Ref, ...]:
    """Resources that a class needs to be called."""
    account = workload_class.account
    own = [_ref(inbound_listener, workload_class)]
    forwarders = _reading(mesh, workload_class).forwarders
    for opened in workload_class.open_ports:
        own.append(_ref(application_cluster, opened, workload_class.dual))
        if opened.protocol == "http":
            own.append(_ref(inbound_routes, account, opened.number, forwarders))
    return tuple(own)


FACTORIES: tuple[Query[MeshState, ..., Rendered], ...] = (
    service_cluster,
    service_endpoints,
    addressed_cluster,
    outbound_routes,
    bare_routes,
    outbound_listener,
    application_cluster,
    inbound_routes,
    inbound_listener,
    blackhole,
    passthrough,
)
"""Every query here that renders a resource."""
