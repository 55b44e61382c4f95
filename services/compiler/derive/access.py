"""Who may call whom: traffic targets read against the routes that exist, from the server's side and the client's."""

from __future__ import annotations

from typing import NamedTuple

from services.compiler.derive.bindings import destinations_of, sources_of, targets_from, targets_to
from services.compiler.derive.membership import calls, hears, is_member, is_permissive, members, spiffe_ids, workload
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
    # A certificate outlives its namespace's membership: who has left calls nobody, from this version on.
    callers = [account for account in sources_of(mesh, target) if is_member(mesh, account.namespace)]
    sources = [identity for account in callers for identity in spiffe_ids(mesh, account)]
    http = [rule for rule in target.rules if rule.kind == "HTTPRouteGroup"]
    tcp = [rule for rule in target.rules if rule.kind == "TCPRoute"]
    if not http and not tcp:
        return None
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
    found = (grant(mesh, name) for name in targets_to(mesh, account))
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
def _opened(mesh: Mesh, namespace: str) -> tuple[ObjectName, ...]:
    """Services of a namespace with pods that have sidecars, and the roots over them, if it is permissive."""
    if not is_permissive(mesh, namespace):
        return ()
    found: set[ObjectName] = set()
    for service in mesh.services_of_namespace.get(namespace):
        if accounts(mesh, service):
            found.update((service, *roots_over(mesh, service)))
    return tuple(sorted(service for service in found if ports(mesh, service)))


@query
def opened(mesh: Mesh, namespaces: tuple[str, ...] | None) -> tuple[ObjectName, ...]:
    """Services that every member may call, of these namespaces or (none) of all. Sorted."""
    chosen = members(mesh) if namespaces is None else [name for name in namespaces if is_member(mesh, name)]
    return tuple(service for namespace in chosen for service in _opened(mesh, namespace))


@query
def granted(mesh: Mesh, account: ObjectName) -> tuple[ObjectName, ...]:
    """Services that some traffic target lets an account call, sorted.

    These are the services with pods of a destination behind them, and the roots over these. A target is written by its
    destination: it tells a caller nothing whose namespace says that it calls others.
    """
    found: set[ObjectName] = set()
    for name in targets_from(mesh, account):
        target = mesh.targets.get(name)
        if target is None or not hears(mesh, account.namespace, name.namespace) or grant(mesh, name) is None:
            continue
        for destination in destinations_of(mesh, target):
            for service in services_of_account(mesh, destination):
                found.update((service, *roots_over(mesh, service)))
    return tuple(sorted(service for service in found if ports(mesh, service)))


class Scope(NamedTuple):
    """Whose outbound configuration it is: shared by all that may call the same."""

    account: ObjectName | None
    """Whose traffic targets count; none: nobody's, what is permissive is all there is to call."""
    namespaces: tuple[str, ...] | None
    """Permissive namespaces that it is told of; none: all."""
    dual: bool
    """Whether its pods have IPv6 addresses too."""


@query
def scope_of(mesh: Mesh, account: ObjectName, dual: bool) -> Scope:  # noqa: FBT001 (arguments of a query are its identity)
    """Whose outbound configuration the pods of an account have."""
    namespaces = calls(mesh, account.namespace)
    # Accounts whose traffic targets add nothing to what is permissive share one configuration.
    adds = any(not is_permissive(mesh, service.namespace) for service in granted(mesh, account))
    return Scope(account if adds else None, namespaces, dual)


@query
def reachable(mesh: Mesh, scope: Scope) -> tuple[ObjectName, ...]:
    """Services that a client of this scope gets configuration for. Sorted."""
    shared = opened(mesh, scope.namespaces)
    return shared if scope.account is None else tuple(sorted({*shared, *granted(mesh, scope.account)}))
