"""Whose an address is: the one pod, or the one Service, of the whole cluster that calls may be led to by it.

What a namespace writes about addresses (an EndpointSlice, a ClusterIP) is a claim. Only the cluster's own word makes
it a right: the address in a pod's status, and the ClusterIP that the API server gave. Pods and Services of
namespaces outside the mesh hold addresses too: nothing in the mesh takes their traffic either.
"""

from __future__ import annotations

from services.compiler import address_claims
from services.compiler.engine import query
from services.compiler.mesh_state import MeshState
from shared.io.addresses import reserved
from shared.policy.object_name import ObjectName
from shared.projected_objects import Pod


def _standing(pod: Pod) -> tuple[bool, str]:
    """Which of two pods that claim one address has it: an address is given again only after its pod has lost it.

    A pod that is being deleted can be kept in the API by a finalizer long after that.
    """
    return (not pod.metadata.deletion_timestamp, pod.metadata.creation_timestamp)


def addresses_of_pod(mesh: MeshState, pod: ObjectName) -> tuple[str, ...]:
    """Addresses that lead to this pod and to no other.

    The address of a pod on its node's network is the node's, and whatever else listens there. Of two pods with one
    address the newer has it; if neither is newer, neither has it.
    """
    found = mesh.pods.get(pod)
    if found is None or found.spec.host_network:
        return ()
    return tuple(address for address in address_claims.of_pod(found) if _has(mesh, address, pod, found))


def _has(mesh: MeshState, address: str, pod: ObjectName, found: Pod) -> bool:
    if reserved(address, loopback=not mesh.settings.loopback):
        return False
    for name in mesh.pods_by_address.get(address):
        rival = None if name == pod else mesh.pods.get(name)
        if rival is not None and (rival.spec.host_network or _standing(rival) >= _standing(found)):
            return False
    return True


@query
def addresses_of_service(mesh: MeshState, service: ObjectName) -> tuple[str, ...]:
    """Cluster addresses that lead to this Service and to no other. Sorted."""
    claimed = address_claims.of_service(mesh.services.get(service))
    return tuple(sorted(address for address in claimed if service_at(mesh, address) == service))


@query
def service_at(mesh: MeshState, address: str) -> ObjectName | None:
    """The Service that a cluster address leads to, of any namespace.

    None if a pod or a node has the address, or if it can be no Service's. Of several Services the oldest; if the
    oldest are equally old and of different namespaces, none has it: nothing decides between them.
    """
    if reserved(address) or mesh.pods_by_address.get(address):
        return None
    rivals: list[tuple[str, ObjectName]] = []
    for name in mesh.services_by_address.get(address):
        found = mesh.services.get(name)
        if found is not None:
            rivals.append((found.metadata.creation_timestamp, name))
    if not rivals:
        return None
    created, oldest = min(rivals)
    if any(age == created and name.namespace != oldest.namespace for age, name in rivals):
        return None
    return oldest
