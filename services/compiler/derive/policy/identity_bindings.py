"""Identity bindings: which service accounts they mean, now.

What a caller proves is its service account. A binding by pod labels therefore means an account only if *every* pod of
the mesh that runs as it has these labels: otherwise the other pods would gain what was not meant for them.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.compiler.derive.membership import is_member, trust_domains, workload
from services.compiler.engine import query
from services.compiler.mesh_state import MeshState
from shared.identity.spiffe import InvalidSpiffeIdError, SpiffeId
from shared.policy.model import IdentityBinding, Requirement, TrafficTarget
from shared.policy.object_name import ObjectName
from shared.records.withheld import LABEL_WITHHELD


def _holds(requirement: Requirement, labels: dict[str, str]) -> bool:
    present = requirement.key in labels
    match requirement.operator:
        case "Exists":
            return present
        case "DoesNotExist":
            return not present
        case "In":
            return present and labels[requirement.key] in requirement.values
        case "NotIn":
            return not present or labels[requirement.key] not in requirement.values


@query
def _selects(mesh: MeshState, binding: ObjectName, pod: ObjectName) -> bool:
    """Whether a pod has the labels that a binding asks for."""
    found, bound = mesh.pods.get(pod), mesh.bindings.get(binding)
    if found is None or bound is None or bound.selector is None or LABEL_WITHHELD in found.metadata.labels:
        return False
    return all(_holds(requirement, found.metadata.labels) for requirement in bound.selector)


@query
def selected_accounts(mesh: MeshState, binding: ObjectName) -> tuple[tuple[ObjectName, bool], ...]:
    """Accounts of the pods that a binding selects, each with whether all of its pods are selected. Sorted."""
    bound = mesh.bindings.get(binding)
    if bound is None or bound.selector is None:
        return ()
    accounts: dict[ObjectName, bool] = {}
    for pod in mesh.pods_of_namespace.get(binding.namespace):
        running = workload(mesh, pod)
        if running is None or not _selects(mesh, binding, pod):
            continue
        account = ObjectName(binding.namespace, running.service_account)
        if account not in accounts:
            accounts[account] = all(
                workload(mesh, other) is None or _selects(mesh, binding, other)
                for other in mesh.pods_of_account.get(account)
            )
    return tuple(sorted(accounts.items()))


def account_of(mesh: MeshState, binding: ObjectName, text: str) -> ObjectName | None:
    """The account that a SPIFFE id of a binding means; none if it is not of this mesh and this namespace."""
    try:
        identity = SpiffeId.parse(f"spiffe://{text}")
    except InvalidSpiffeIdError:
        return None
    if identity.trust_domain not in trust_domains(mesh) or identity.namespace != binding.namespace:
        return None
    return ObjectName(identity.namespace, identity.service_account)


@query
def accounts_of_binding(mesh: MeshState, name: ObjectName) -> tuple[ObjectName, ...]:
    """The accounts that a binding means: of any of its schemes, in its own namespace. Sorted."""
    bound: IdentityBinding | None = mesh.bindings.get(name)
    if bound is None or not is_member(mesh, name.namespace):
        return ()
    found = {account for account, whole in selected_accounts(mesh, name) if whole}
    if bound.account:
        found.add(ObjectName(name.namespace, bound.account))
    found.update(account for text in bound.spiffe if (account := account_of(mesh, name, text)) is not None)
    return tuple(sorted(found))


@query
def bindings_of(mesh: MeshState, account: ObjectName) -> tuple[ObjectName, ...]:
    """The bindings that mean an account. Sorted."""
    candidates = mesh.bindings_of_namespace.get(account.namespace)
    return tuple(name for name in candidates if account in accounts_of_binding(mesh, name))


def sources_of(mesh: MeshState, target: TrafficTarget) -> Iterable[ObjectName]:
    """The accounts that a target names as sources. Sorted, each once."""
    found = set(target.sources)
    for binding in target.source_bindings:
        found.update(accounts_of_binding(mesh, binding))
    return sorted(found)


def destinations_of(mesh: MeshState, target: TrafficTarget) -> Iterable[ObjectName]:
    """The accounts that a target opens. Sorted."""
    if target.destination_is_binding:
        return accounts_of_binding(mesh, target.destination)
    return (target.destination,)


@query
def targets_from(mesh: MeshState, account: ObjectName) -> tuple[ObjectName, ...]:
    """Traffic targets that name an account as a source, directly or by a binding. Sorted."""
    found = set(mesh.targets_by_source.get(account))
    for binding in bindings_of(mesh, account):
        found.update(mesh.targets_by_source_binding.get(binding))
    return tuple(sorted(found))


@query
def targets_to(mesh: MeshState, account: ObjectName) -> tuple[ObjectName, ...]:
    """Traffic targets that open an account, directly or by a binding. Sorted."""
    found = set(mesh.targets_by_destination.get(account))
    for binding in bindings_of(mesh, account):
        found.update(mesh.targets_by_destination_binding.get(binding))
    return tuple(sorted(found))
