"""What objects put into sidecars, in estimated kB of an Envoy's memory: the figures of `shared.policy.budgets`.

Endpoints are counted in steps, up to an eighth more than there are: a replica more changes no weight most of the time,
so that it costs what it did.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.compiler.derive.membership import workload
from services.compiler.derive.policy.grants import services_of_account
from services.compiler.derive.policy.identity_bindings import accounts_of_binding, destinations_of
from services.compiler.derive.policy.route_groups import route_group
from services.compiler.derive.services.offers import addresses, answering, ports
from services.compiler.derive.services.open_ports import shapes
from services.compiler.engine import query
from services.compiler.mesh_state import MeshState
from shared.policy.budgets import (
    ENDPOINT_KB,
    PERMISSION_KB,
    PORT_KB,
    PRINCIPAL_KB,
    PROGRAM_PER_KB,
    ROUTE_KB,
    SHARE_KB,
)
from shared.policy.model import TargetRule, TrafficSplit
from shared.policy.object_name import ObjectName
from shared.policy.route_groups import programs


def stepped(count: int) -> int:
    """The count, rounded up to its three highest bits."""
    step = 1 << max(0, count.bit_length() - 3)
    return -(-count // step) * step


@query
def endpoint_count(mesh: MeshState, service: ObjectName) -> int:
    """Endpoints of all ports of a service together, ready or not, in steps; of a headless one also its addresses."""
    answers = answering(mesh, service, workload)
    offered = {item.name for item in ports(mesh, service)}
    count = sum(1 for one in answers for name, _ in one.ports if name in offered)
    if addresses(mesh, service).headless:
        count += len(answers) * len(ports(mesh, service))
    return stepped(count)


@query
def service_kb(mesh: MeshState, service: ObjectName) -> int:
    """What a service puts into the sidecar of a caller, without a split of it."""
    return _ports_kb(mesh, service, len(ports(mesh, service)))


def _ports_kb(mesh: MeshState, service: ObjectName, count: int) -> int:
    """What some of the ports of a service take, at most so many."""
    offered = len(ports(mesh, service))
    if not offered:
        return 0
    count = min(count, offered)
    return count * PORT_KB + -(-endpoint_count(mesh, service) * count // offered) * ENDPOINT_KB


@query
def split_kb(mesh: MeshState, name: ObjectName) -> int:
    """What a split adds to its root in the sidecar of a caller."""
    split: TrafficSplit | None = mesh.splits.get(name)
    if split is None:
        return 0
    offered = len(ports(mesh, ObjectName(name.namespace, split.root)))
    backends = [ObjectName(name.namespace, backend.service) for backend in split.backends]
    found = sum(_ports_kb(mesh, backend, offered) for backend in backends if backend.name != split.root)
    for group in split.matches:
        matches = group_kb(mesh, ObjectName(name.namespace, group))
        count = sum(number for number, _ in matches.values())
        found += offered * (count * (ROUTE_KB + SHARE_KB * len(backends)) + sum(kb for _, kb in matches.values()))
    return found


@query
def group_kb(mesh: MeshState, name: ObjectName) -> dict[str, tuple[int, int]]:
    """Name of a match → how many have it, and the kB of their expressions."""
    group = route_group(mesh, name)
    found: dict[str, tuple[int, int]] = {}
    for match in group.matches if group is not None else ():
        count, size = found.get(match.name, (0, 0))
        found[match.name] = count + 1, size + programs(match)
    return {name: (count, -(-size // PROGRAM_PER_KB)) for name, (count, size) in found.items()}


def _rules_kb(mesh: MeshState, namespace: str, rules: Iterable[TargetRule]) -> int:
    """What the requests of rules put into one port of the called sidecar."""
    found = 0
    for rule in dict.fromkeys(rules):
        if rule.kind != "HTTPRouteGroup":
            continue
        matches = group_kb(mesh, ObjectName(namespace, rule.name))
        chosen = [matches[name] for name in dict.fromkeys(rule.matches) if name in matches]
        for count, kb in chosen if rule.matches else matches.values():
            found += count * PERMISSION_KB + kb
    return found


@query
def target_kb(mesh: MeshState, name: ObjectName) -> int:
    """What a traffic target puts into all sidecars together: of its destination and of its sources."""
    target = mesh.targets.get(name)
    if target is None:
        return 0
    bound = sum(len(accounts_of_binding(mesh, binding)) for binding in target.source_bindings)
    sources = len(target.sources) + bound
    inbound = _rules_kb(mesh, name.namespace, target.rules) + sources * PRINCIPAL_KB
    found = 0
    for account in destinations_of(mesh, target):
        offered = sum(service_kb(mesh, service) for service in services_of_account(mesh, account))
        found += openings(mesh, account) * inbound + sources * offered
    return found


@query
def openings(mesh: MeshState, account: ObjectName) -> int:
    """Ports that the pods of an account have open: of each kind of its pods."""
    most = mesh.settings.budgets.pod_open_ports
    return sum(min(count, most) for _, count in shapes(mesh, account))
