"""Permitted calls: the grants to an account's pods, and the services that an account's pods may call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from services.compiler.derive.budgets.fit import Item, beyond_for, fitting, offers_left_out, targets_left_out
from services.compiler.derive.membership import (
    called_namespaces,
    is_member,
    is_permissive,
    members,
    receives_services_of,
)
from services.compiler.derive.policy.grants import Grant, granting, services_of_account
from services.compiler.derive.policy.identity_bindings import destinations_of, targets_from, targets_to
from services.compiler.derive.policy.route_groups import Problem
from services.compiler.derive.policy.splits import roots_over
from services.compiler.derive.services.offers import accounts
from services.compiler.engine import query
from services.compiler.mesh_state import MeshState
from shared.policy.object_name import ObjectName


@query
def grant(mesh: MeshState, name: ObjectName) -> Grant | None:
    """What a traffic target grants, if it is within its namespace's budget; none: nothing."""
    return None if name in targets_left_out(mesh, name.namespace) else granting(mesh, name)


@query
def grants_to(mesh: MeshState, account: ObjectName) -> tuple[Grant, ...]:
    """Everything that traffic targets let through to the pods of a service account."""
    found = (grant(mesh, name) for name in targets_to(mesh, account))
    return tuple(item for item in found if item is not None)


@query
def _opened(mesh: MeshState, namespace: str) -> tuple[ObjectName, ...]:
    """Services of a namespace with pods that have sidecars, and the roots over them, if it is permissive."""
    if not is_permissive(mesh, namespace):
        return ()
    found: dict[ObjectName, bool] = {}
    for service in mesh.services_of_namespace.get(namespace):
        if accounts(mesh, service):
            add_with_roots(mesh, found, service)
    return fitting(mesh, tuple(sorted(found.items())), offers_left_out(mesh, namespace))


def granted_destinations(mesh: MeshState, account: ObjectName) -> Iterator[ObjectName]:
    """Accounts that traffic targets in force let an account call, if its namespace receives their services."""
    for name in targets_from(mesh, account):
        target = mesh.targets.get(name)
        if (
            target is not None
            and receives_services_of(mesh, account.namespace, name.namespace)
            and grant(mesh, name) is not None
        ):
            yield from destinations_of(mesh, target)


def add_with_roots(mesh: MeshState, found: dict[ObjectName, bool], service: ObjectName) -> None:
    """Add a service with pods behind it (True), and the roots over it (False: reachable by their splits only)."""
    found[service] = True
    for root in roots_over(mesh, service):
        found.setdefault(root, False)


@query
def opened(mesh: MeshState, namespaces: tuple[str, ...] | None) -> tuple[ObjectName, ...]:
    """Services that every member may call, of these namespaces or (none) of all. Sorted."""
    chosen = members(mesh) if namespaces is None else [name for name in namespaces if is_member(mesh, name)]
    return tuple(service for namespace in chosen for service in _opened(mesh, namespace))


@query
def _entitled(mesh: MeshState, account: ObjectName) -> tuple[tuple[ObjectName, bool], ...]:
    """Services that some traffic target lets an account call, sorted, and whether because of their own pods.

    These are the services with pods of a destination behind them, and the roots over these. A target is written by its
    destination: it adds nothing to a caller whose namespace's annotation of calls names other namespaces only.
    """
    found: dict[ObjectName, bool] = {}
    for destination in granted_destinations(mesh, account):
        for service in services_of_account(mesh, destination):
            add_with_roots(mesh, found, service)
    return tuple(sorted(found.items()))


@query
def left_out(mesh: MeshState, account: ObjectName) -> dict[Item, Problem]:
    """Services, and splits of them, that an account may call and that are beyond what its sidecars take."""
    return beyond_for(mesh, account, tuple(service for service, _ in _entitled(mesh, account)))


@query
def granted(mesh: MeshState, account: ObjectName) -> tuple[ObjectName, ...]:
    """Services that some traffic target lets an account call, and that its sidecars have configuration for. Sorted."""
    return fitting(mesh, _entitled(mesh, account), left_out(mesh, account))


class Scope(NamedTuple):
    """Whose outbound configuration it is: shared by all that may call the same."""

    account: ObjectName | None
    """The account whose traffic targets count; None if only services of permissive namespaces may be called."""
    namespaces: tuple[str, ...] | None
    """Permissive namespaces whose services it gets; None means all."""
    dual: bool
    """Whether its pods have IPv6 addresses too."""


@query
def scope_of(mesh: MeshState, account: ObjectName, dual: bool) -> Scope:  # noqa: FBT001 (arguments of a query are its identity)
    """Whose outbound configuration the pods of an account have."""
    namespaces = called_namespaces(mesh, account.namespace)
    # Accounts whose traffic targets add nothing to what is permissive share one configuration.
    adds = any(not is_permissive(mesh, service.namespace) for service in granted(mesh, account))
    return Scope(account if adds else None, namespaces, dual)


@query
def reachable(mesh: MeshState, scope: Scope) -> tuple[ObjectName, ...]:
    """Services that a client of this scope gets configuration for. Sorted."""
    shared = opened(mesh, scope.namespaces)
    return shared if scope.account is None else tuple(sorted({*shared, *granted(mesh, scope.account)}))


@query
def without_split(mesh: MeshState, scope: Scope) -> frozenset[ObjectName]:
    """Services whose split is left out for a client of this scope."""
    left = dict(left_out(mesh, scope.account)) if scope.account is not None else dict[Item, Problem]()
    for namespace in dict.fromkeys(service.namespace for service in reachable(mesh, scope)):
        left.update(offers_left_out(mesh, namespace))
    splits = ((name, mesh.splits.get(name)) for kind, name in left if kind == "TrafficSplit")
    return frozenset(ObjectName(name.namespace, split.root) for name, split in splits if split is not None)
