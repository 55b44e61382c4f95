"""What of a namespace is within its budgets. The oldest objects stay; what is left out opens nothing.

Three budgets, in estimated kB (`weights`): what a namespace's traffic targets put into all sidecars together; what its
services and splits put into one sidecar that may hold them all; and what they put into one of a namespace that has not
asked for them. Objects are taken by age. One that does not fit is left out, and younger ones that fit are taken: an
object that is added never throws out an older one. A traffic target that is left out denies. A service that is left
out is closed to the callers concerned. A split that is left out sends calls to its root's own endpoints, whose sidecars
decide about them as about any other call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from services.compiler.derive.budgets.weights import endpoint_count, service_kb, split_kb, target_kb
from services.compiler.derive.membership import called_namespaces, is_member, is_permissive
from services.compiler.derive.policy.route_groups import Problem
from services.compiler.derive.policy.splits import split_of
from services.compiler.derive.services.offers import age, ports
from services.compiler.engine import exception_query
from services.compiler.mesh_state import MeshState
from shared.policy.object_name import ObjectName
from shared.projected_objects import ANNOTATION_CALLS

Key = TypeVar("Key")
Item = tuple[str, ObjectName]
"""`Service` or `TrafficSplit`, and which."""


@exception_query
def targets_left_out(mesh: MeshState, namespace: str) -> dict[ObjectName, Problem]:
    """Traffic targets of a namespace that are beyond its budget."""
    most = mesh.settings.budgets.namespace_kb
    if not is_member(mesh, namespace):
        return {}
    weights = {name: target_kb(mesh, name) for name in mesh.targets_of_namespace.get(namespace)}
    where = f"sidecars, and the TrafficTargets of namespace {namespace}, the oldest first, may put {most} kB there"
    return {
        name: (
            "budget/namespace-kb",
            f"is left out: it would put an estimated {weights[name]} kB into {where}; {_NARROWER}",
        )
        for name in _beyond(weights, most, lambda name: _target_age(mesh, name))
    }


@exception_query
def offers_left_out(mesh: MeshState, namespace: str) -> dict[Item, Problem]:
    """Services and splits of a namespace that are beyond what it may put into one sidecar of its own."""
    budgets = mesh.settings.budgets
    if not is_member(mesh, namespace):
        return {}
    services = mesh.services_of_namespace.get(namespace)
    counts: dict[Item, int] = {("Service", service): endpoint_count(mesh, service) for service in services}
    crowded = _beyond(counts, budgets.namespace_endpoints, lambda item: _age(mesh, item))
    limit = f"and the Services of namespace {namespace}, the oldest first, may have {budgets.namespace_endpoints}"
    found: dict[Item, Problem] = {}
    for item in crowded:
        said = f"is left out: it has some {counts[item]} endpoints, counted for each port, {limit}; {_SMALLER}"
        found[item] = ("budget/namespace-endpoints", said)
    weights = _weights(mesh, (service for service in services if ("Service", service) not in found))
    where = f"and the objects of namespace {namespace}, the oldest first, may take {budgets.offered_kb} kB"
    for item in _beyond(weights, budgets.offered_kb, lambda item: _age(mesh, item)):
        said = f"is left out: it would take an estimated {weights[item]} kB of a sidecar, {where}; {_FEWER}"
        found[item] = ("budget/offered-kb", said)
    return found


def beyond_for(mesh: MeshState, account: ObjectName, services: tuple[ObjectName, ...]) -> dict[Item, Problem]:
    """Those of the services that an account may call, and splits of them, that do not fit into its sidecars."""
    found: dict[Item, Problem] = {}
    for namespace in dict.fromkeys(service.namespace for service in services):
        found.update(offers_left_out(mesh, namespace))
        # The operator of the mesh decides that a namespace is permissive: then all proxies get its services.
        if not _asked_for(mesh, namespace, by=account.namespace) and not is_permissive(mesh, namespace):
            here = (service for service in services if service.namespace == namespace)
            own = tuple(service for service in here if ("Service", service) not in found)
            found.update(_pushed_left_out(mesh, namespace, own, account.namespace))
    return found


@exception_query
def _pushed_left_out(
    mesh: MeshState, namespace: str, services: tuple[ObjectName, ...], caller: str
) -> dict[Item, Problem]:
    """Those of some services, and splits of them, that do not fit into one sidecar of another namespace."""
    most = mesh.settings.budgets.foreign_kb
    weights = _weights(mesh, services)
    for_whom = f"is left out for callers of namespace {caller}: it would take an estimated"
    where = f"of each sidecar, of which the objects of namespace {namespace}, the oldest first, may take {most} kB"
    instead = f"{_FEWER}, or have namespace {caller} name {namespace} in its annotation {ANNOTATION_CALLS}"
    return {
        item: (FOREIGN, f"{for_whom} {weights[item]} kB {where}; {instead}")
        for item in _beyond(weights, most, lambda item: _age(mesh, item))
    }


def _asked_for(mesh: MeshState, namespace: str, *, by: str) -> bool:
    """Whether a namespace names another in its annotation of calls: then no foreign budget applies."""
    return namespace == by or namespace in (called_namespaces(mesh, by) or ())


def fitting(
    mesh: MeshState, services: tuple[tuple[ObjectName, bool], ...], left_out: dict[Item, Problem]
) -> tuple[ObjectName, ...]:
    """Services with ports that are not left out; those reachable by a split only if the split is kept."""
    return tuple(
        service
        for service, direct in services
        if ("Service", service) not in left_out
        and (direct or spreads(mesh, service, left_out))
        and ports(mesh, service)
    )


def spreads(mesh: MeshState, root: ObjectName, left_out: dict[Item, Problem]) -> bool:
    """Whether the split of a root is not left out."""
    split = split_of(mesh, root)
    return split is None or ("TrafficSplit", split) not in left_out


FOREIGN = "budget/foreign-kb"
_NARROWER = "name fewer sources, ports or matches"
_SMALLER = "offer fewer ports or endpoints"
_FEWER = "offer fewer ports, endpoints, backends or matches"


def _weights(mesh: MeshState, services: Iterable[ObjectName]) -> dict[Item, int]:
    found: dict[Item, int] = {}
    for service in services:
        found["Service", service] = service_kb(mesh, service)
        split = split_of(mesh, service)
        if split is not None:
            found["TrafficSplit", split] = split_kb(mesh, split)
    return found


def _beyond(weights: dict[Key, int], most: int, age_of: Callable[[Key], tuple[str, str, ObjectName]]) -> list[Key]:
    if sum(weights.values()) <= most:
        return []
    left: list[Key] = []
    total = 0
    for item in sorted(weights, key=age_of):
        if total + weights[item] > most:
            left.append(item)
        else:
            total += weights[item]
    return left


def _target_age(mesh: MeshState, name: ObjectName) -> tuple[str, str, ObjectName]:
    target = mesh.targets.get(name)
    return (target.created if target is not None else "", "", name)


def _age(mesh: MeshState, item: Item) -> tuple[str, str, ObjectName]:
    kind, name = item
    if kind == "Service":
        return (age(mesh, name)[0], kind, name)
    split = mesh.splits.get(name)
    return (split.created if split is not None else "", kind, name)
