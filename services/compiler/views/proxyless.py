"""Resources of proxyless workloads, whose gRPC library speaks xDS itself, in place of a sidecar."""

from __future__ import annotations

from services.compiler import envoy_names
from services.compiler.derive import proxyless as derived
from services.compiler.derive.budgets.fit import offers_left_out, spreads
from services.compiler.derive.policy.splits import route
from services.compiler.derive.services.offers import ports
from services.compiler.engine import Query, query
from services.compiler.ir import Rendered
from services.compiler.mesh_state import MeshState
from services.compiler.render import proxyless as messages
from services.compiler.render import routes as route_configurations
from services.compiler.render.packing import rendered
from shared.policy.object_name import ObjectName


@query
def listener(mesh: MeshState, service: ObjectName, number: int) -> Rendered:
    """What dialling a port of a service finds."""
    message = messages.listener(derived.dialled(mesh, service, number), envoy_names.outbound(service, number))
    return rendered(message.name, message)


@query
def outbound_routes(mesh: MeshState, service: ObjectName, number: int) -> Rendered:
    """Where calls to a port go."""
    found = route(mesh, service, number)
    if found is None:
        raise LookupError(f"{service} has no port {number}")
    message = route_configurations.outbound(
        found._replace(sticky=False), envoy_names.outbound(service, number), tunnels=False
    )
    return rendered(message.name, message)


@query
def bare_routes(mesh: MeshState, service: ObjectName, number: int) -> Rendered:
    """The same as for a service without a split: for clients that do not take the split."""
    found = route(mesh, service, number)
    if found is None:
        raise LookupError(f"{service} has no port {number}")
    message = route_configurations.outbound(
        found._replace(split=None, sticky=False), envoy_names.outbound(service, number), tunnels=False
    )
    return rendered(message.name, message)


@query
def cluster(mesh: MeshState, service: ObjectName, number: int) -> Rendered:  # noqa: ARG001 (a query has a context)
    """The cluster of a port."""
    message = messages.cluster(envoy_names.outbound(service, number))
    return rendered(message.name, message)


@query
def endpoints(mesh: MeshState, service: ObjectName, number: int) -> Rendered:
    """The proxyless pods that answer for a port now."""
    name = envoy_names.outbound(service, number)
    return rendered(name, messages.endpoints(name, derived.endpoints(mesh, service, number)))


@query
def resources(
    mesh: MeshState, account: ObjectName
) -> tuple[tuple[Query[MeshState, ..., Rendered], tuple[ObjectName, int]], ...]:
    """Everything that proxyless pods of an account hold, by how it is made."""
    refs: dict[tuple[Query[MeshState, ..., Rendered], tuple[ObjectName, int]], None] = {}
    for service in derived.reachable(mesh, account):
        spread = spreads(mesh, service, {**derived.left_out(mesh, account), **offers_left_out(mesh, service.namespace)})
        for offered in ports(mesh, service):
            found = route(mesh, service, offered.number)
            # A split by requests has its root's own endpoints for the rest; a weight of 0 may become another.
            shares = (
                [share.service for share in found.split.shares] if found is not None and found.split and spread else []
            )
            for backend in dict.fromkeys([service, *shares]):
                refs[cluster, (backend, offered.number)] = None
                refs[endpoints, (backend, offered.number)] = None
            refs[outbound_routes if spread else bare_routes, (service, offered.number)] = None
            refs[listener, (service, offered.number)] = None
    return tuple(refs)


FACTORIES: tuple[Query[MeshState, ..., Rendered], ...] = (listener, outbound_routes, bare_routes, cluster, endpoints)
"""Every query here that renders a resource."""
