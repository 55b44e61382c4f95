"""Who may call whom: traffic targets read against the routes that exist, from the server's side and the client's."""

from __future__ import annotations

from typing import NamedTuple

from services.compiler.derive.membership import is_member, members, mesh_config, spiffe_id, workload
from services.compiler.derive.offers import accounts, ports
from services.compiler.derive.splits import roots_over
from services.compiler.engine import query
from services.compiler.mesh import Mesh
from shared.policy.model import HttpMatch, Rule
from shared.policy.names import ObjectName


class Grant(NamedTuple):
    """What one traffic target lets through to the pods of its destination."""

    target: ObjectName
    sources: tuple[str, ...]
    """SPIFFE ids, sorted, at least one."""
    ports: tuple[int, ...] | None
    """Ports of the pod; none: all."""
    requests: tuple[HttpMatch, ...] | None
    """Only these HTTP requests, hence nothing on ports that are bytes to us; none: everything."""


def _requests(mesh: Mesh, namespace: str, rules: list[Rule]) -> tuple[HttpMatch, ...]:
    found: dict[HttpMatch, None] = {}
    for rule in rules:
        group = mesh.route_groups.get(ObjectName(namespace, rule.name))
        for match in group.matches if group else ():
            if not rule.matches or match.name in rule.matches:
                found[match] = None
    return tuple(found)


def _ports(mesh: Mesh, namespace: str, rules: list[Rule]) -> set[int] | None:
    """Ports of the TCP routes together; none: all."""
    found: set[int] = set()
    for rule in rules:
        route = mesh.tcp_routes.get(ObjectName(namespace, rule.name))
        if route is not None and not route.ports:
            return None
        found.update(route.ports if route else ())
    return found


@query
def grant(mesh: Mesh, name: ObjectName) -> Grant | None:
    """What a traffic target grants; none: nothing. A rule whose route or match is missing grants nothing."""
    target = mesh.targets.get(name)
    if target is None or not is_member(mesh, name.namespace):
        return None
    sources = [identity for account in target.sources if (identity := spiffe_id(mesh, account)) is not None]
    http = [rule for rule in target.rules if rule.kind == "HTTPRouteGroup"]
    tcp = [rule for rule in target.rules if rule.kind == "TCPRoute"]
    requests = _requests(mesh, name.namespace, http) if http else None
    opened = _ports(mesh, name.namespace, tcp) if tcp else None
    if target.port:
        opened = {target.port} if opened is None or target.port in opened else set[int]()
    if not sources or requests == () or (opened is not None and not opened):
        return None
    return Grant(
        target=name,
        sources=tuple(sorted(sources)),
        ports=None if opened is None else tuple(sorted(opened)),
        requests=requests,
    )


@query
def grants_to(mesh: Mesh, account: ObjectName) -> tuple[Grant, ...]:
    """Everything that traffic targets let through to the pods of a service account."""
    found = (grant(mesh, name) for name in mesh.targets_by_destination.get(account))
    return tuple(item for item in found if item is not None)


@query
def services_of_account(mesh: Mesh, account: ObjectName) -> tuple[ObjectName, ...]:
    """Services behind which pods of an account are. Sorted."""
    found: set[ObjectName] = set()
    for pod in mesh.pods_of_account.get(account):
        if workload(mesh, pod) is not None:
            found.update(service for service, _ in mesh.services_naming_pod.get(pod))
    return tuple(sorted(service for service in found if account in accounts(mesh, service)))


@query
def everything(mesh: Mesh) -> tuple[ObjectName, ...]:
    """Every service of the mesh with pods that have sidecars, and every root over one: what permissive mode opens."""
    found: set[ObjectName] = set()
    for namespace in members(mesh):
        for service in mesh.services_of_namespace.get(namespace):
            if accounts(mesh, service):
                found.update((service, *roots_over(mesh, service)))
    return tuple(sorted(service for service in found if ports(mesh, service)))


@query
def granted(mesh: Mesh, account: ObjectName) -> tuple[ObjectName, ...]:
    """Services that some traffic target lets an account call, sorted.

    These are the services with pods of a destination behind them, and the roots over these.
    """
    found: set[ObjectName] = set()
    for name in mesh.targets_by_source.get(account):
        target = mesh.targets.get(name)
        if target is None or grant(mesh, name) is None:
            continue
        for service in services_of_account(mesh, target.destination):
            found.update((service, *roots_over(mesh, service)))
    return tuple(sorted(service for service in found if ports(mesh, service)))


Scope = ObjectName | None
"""Whose outbound configuration: an account's, or (permissive mode) everybody's."""


@query
def scope_of(mesh: Mesh, account: ObjectName) -> Scope:
    """Whose outbound configuration an account has."""
    return None if mesh_config(mesh).permissive else account


def reachable(mesh: Mesh, scope: Scope) -> tuple[ObjectName, ...]:
    """Services that a client of this scope gets configuration for. Sorted."""
    return everything(mesh) if scope is None else granted(mesh, scope)
