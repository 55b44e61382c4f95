"""What proxyless workloads may call: pods whose gRPC library speaks xDS itself, in place of a sidecar.

They get the ports of services that policy lets them call and behind which other proxyless pods answer. A
pod with a sidecar takes mutual TLS only, so it is no endpoint of theirs, nor are they endpoints of sidecars.
"""

from __future__ import annotations

from services.compiler.derive.budgets.fit import Item, beyond_for, fitting, offers_left_out
from services.compiler.derive.membership import (
    called_namespaces,
    is_member,
    is_permissive,
    members,
)
from services.compiler.derive.membership import proxyless as proxyless_pod
from services.compiler.derive.policy.reachable_services import add_with_roots, granted_destinations
from services.compiler.derive.policy.route_groups import Problem
from services.compiler.derive.services.offers import answering, offered_by
from services.compiler.engine import query
from services.compiler.ir import Endpoint
from services.compiler.mesh_state import MeshState
from shared.policy.object_name import ObjectName


def dialled(mesh: MeshState, service: ObjectName, number: int) -> str:
    """The name under which a client dials a port: `xds:///` and this."""
    return f"{service.name}.{service.namespace}.svc.{mesh.settings.service_domain}:{number}"


@query
def accounts(mesh: MeshState, service: ObjectName) -> tuple[ObjectName, ...]:
    """The service accounts of the proxyless pods behind a service, ready or not. Sorted."""
    found = {ObjectName(service.namespace, one.service_account) for one in answering(mesh, service, proxyless_pod)}
    return tuple(sorted(found))


@query
def _opened(mesh: MeshState, namespace: str) -> tuple[ObjectName, ...]:
    """Services with proxyless pods of a namespace, if it is permissive."""
    if not is_permissive(mesh, namespace):
        return ()
    return tuple(sorted(name for name in mesh.services_of_namespace.get(namespace) if accounts(mesh, name)))


@query
def _entitled(mesh: MeshState, account: ObjectName) -> tuple[tuple[ObjectName, bool], ...]:
    """Services with proxyless pods that some traffic target lets an account call, and (false) the roots over them."""
    found: dict[ObjectName, bool] = {}
    for destination in granted_destinations(mesh, account):
        for service in mesh.services_of_namespace.get(destination.namespace):
            if destination in accounts(mesh, service):
                add_with_roots(mesh, found, service)
    return tuple(sorted(found.items()))


@query
def left_out(mesh: MeshState, account: ObjectName) -> dict[Item, Problem]:
    """Services, and splits of them, that an account may call and that are beyond what a client of it takes."""
    return beyond_for(mesh, account, tuple(service for service, _ in _entitled(mesh, account)))


@query
def _told(mesh: MeshState, namespace: str) -> tuple[ObjectName, ...]:
    """Services of a permissive namespace that every proxyless pod gets."""
    found: dict[ObjectName, bool] = {}
    for service in _opened(mesh, namespace):
        add_with_roots(mesh, found, service)
    return fitting(mesh, tuple(sorted(found.items())), offers_left_out(mesh, namespace))


@query
def reachable(mesh: MeshState, account: ObjectName) -> tuple[ObjectName, ...]:
    """Services that proxyless pods of an account have configuration for, and the roots over them. Sorted."""
    namespaces = called_namespaces(mesh, account.namespace)
    told = members(mesh) if namespaces is None else [name for name in namespaces if is_member(mesh, name)]
    found = {service for namespace in told for service in _told(mesh, namespace)}
    found.update(fitting(mesh, _entitled(mesh, account), left_out(mesh, account)))
    return tuple(sorted(found))


@query
def endpoints(mesh: MeshState, service: ObjectName, number: int) -> tuple[Endpoint, ...]:
    """The proxyless pods that answer for a port now."""
    return offered_by(mesh, service, number, proxyless_pod)
