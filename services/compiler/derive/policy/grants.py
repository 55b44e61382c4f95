"""What each traffic target grants by itself, and the services that it is about."""

from __future__ import annotations

from services.compiler.derive.membership import is_member, spiffe_ids, workload
from services.compiler.derive.policy.identity_bindings import sources_of
from services.compiler.derive.policy.route_groups import route_group
from services.compiler.derive.services.offers import accounts
from services.compiler.engine import query
from services.compiler.ir import Grant
from services.compiler.mesh_state import MeshState
from shared.policy.model import HttpMatch, TargetRule, TrafficTarget
from shared.policy.object_name import ObjectName


def _requests(mesh: MeshState, namespace: str, rules: list[TargetRule]) -> tuple[HttpMatch, ...]:
    found: dict[HttpMatch, None] = {}
    for rule in dict.fromkeys(rules):
        group = route_group(mesh, ObjectName(namespace, rule.name))
        wanted = set(rule.matches)
        for match in group.matches if group else ():
            if not wanted or match.name in wanted:
                found[match] = None
    return tuple(found)


def _ports(mesh: MeshState, namespace: str, rules: list[TargetRule]) -> set[int] | None:
    """Ports of the TCP routes together; none: all."""
    found: set[int] = set()
    for rule in rules:
        route = mesh.tcp_routes.get(ObjectName(namespace, rule.name))
        if route is not None and not route.ports:
            return None
        found.update(route.ports if route else ())
    return found


def _sources(mesh: MeshState, target: TrafficTarget) -> tuple[str, ...]:
    """SPIFFE ids of the callers that are members, sorted."""
    # A certificate outlives its namespace's membership: a namespace that left the mesh may call nothing from then on.
    callers = [account for account in sources_of(mesh, target) if is_member(mesh, account.namespace)]
    return tuple(sorted(identity for account in callers for identity in spiffe_ids(mesh, account)))


def _opened(mesh: MeshState, namespace: str, target: TrafficTarget, rules: list[TargetRule]) -> tuple[int, ...] | None:
    """Ports that TCP rules and the target's own port open, sorted; None means all."""
    opened = _ports(mesh, namespace, rules) if rules else None
    if target.port:
        opened = {target.port} if opened is None or target.port in opened else set[int]()
    return None if opened is None else tuple(sorted(opened))


@query
def granting(mesh: MeshState, name: ObjectName) -> Grant | None:
    """What a traffic target grants, or None. A rule whose route or match is missing grants nothing."""
    target = mesh.targets.get(name)
    if target is None or not is_member(mesh, name.namespace):
        return None
    sources = _sources(mesh, target)
    http = [rule for rule in target.rules if rule.kind == "HTTPRouteGroup"]
    tcp = [rule for rule in target.rules if rule.kind == "TCPRoute"]
    if not http and not tcp:
        return None
    requests = _requests(mesh, name.namespace, http) if http else None
    ports = _opened(mesh, name.namespace, target, tcp)
    if not sources or requests == () or ports == ():
        return None
    return Grant(target=name, sources=sources, ports=ports, requests=requests)


@query
def services_of_account(mesh: MeshState, account: ObjectName) -> tuple[ObjectName, ...]:
    """Services behind which pods of an account are. Sorted."""
    found: set[ObjectName] = set()
    for pod in mesh.pods_of_account.get(account):
        if workload(mesh, pod) is not None:
            found.update(service for service, _ in mesh.services_naming_pod.get(pod))
    return tuple(sorted(service for service in found if account in accounts(mesh, service)))
