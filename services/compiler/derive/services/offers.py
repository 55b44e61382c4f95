"""What services offer: ports and their protocols, addresses, endpoints, and the accounts behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from services.compiler.address_claims import pod_behind
from services.compiler.derive.membership import MeshPod, is_member, workload
from services.compiler.derive.services.address_owner import addresses_of_pod, addresses_of_service
from services.compiler.derive.services.protocols import protocol_of
from services.compiler.engine import Query, query
from services.compiler.ir import Endpoint, Protocol
from services.compiler.mesh_state import MeshState
from shared.io.addresses import canonical
from shared.policy.object_name import ObjectName
from shared.projected_objects import EndpointSlice, SliceEndpoint


class OfferedPort(NamedTuple):
    """One TCP port of a service."""

    number: int
    name: str
    protocol: Protocol
    target: int | str
    """Number, or name of a container port."""


class ServiceAddresses(NamedTuple):
    """Where clients connect to for a service."""

    headless: bool
    """Clients address pods themselves."""
    hosts: tuple[str, ...]
    """Sorted."""


@query
def ports(mesh: MeshState, service: ObjectName) -> tuple[OfferedPort, ...]:
    """The TCP ports of a service of the mesh by number; none if it is not in the mesh or has no endpoints by kind."""
    found = mesh.services.get(service)
    if found is None or found.spec.type == "ExternalName" or not is_member(mesh, service.namespace):
        return ()
    unique: dict[int, OfferedPort] = {}
    for port in found.spec.ports:
        if port.protocol == "TCP" and 0 < port.port < 65536 and port.port not in unique:
            target = port.target_port or port.port
            unique[port.port] = OfferedPort(port.port, port.name, protocol_of(port), target)
    return tuple(unique[number] for number in sorted(unique))


@query
def port(mesh: MeshState, service: ObjectName, number: int) -> OfferedPort | None:
    """One port of a service."""
    return next((item for item in ports(mesh, service) if item.number == number), None)


@query
def _slices(mesh: MeshState, service: ObjectName) -> tuple[EndpointSlice, ...]:
    found = (mesh.slices.get(name) for name in mesh.slices_of_service.get(service))
    return tuple(piece for piece in found if piece is not None and piece.address_type in {"IPv4", "IPv6"})


Member = Query[MeshState, [ObjectName], MeshPod | None]
"""Which pods count: those with a sidecar (`workload`), or those that need none (`proxyless`)."""


class LocatedPod(NamedTuple):
    """What matters of a pod of the mesh behind a service."""

    uid: str
    service_account: str
    addresses: tuple[str, ...]
    """Those that lead to it and to no other."""


@query
def _located(mesh: MeshState, pod: ObjectName, member: Member) -> LocatedPod | None:
    # The function itself: one answer less for each pod is kept, and walked through when a change is explained.
    running = member.function(mesh, pod)
    return None if running is None else LocatedPod(running.uid, running.service_account, addresses_of_pod(mesh, pod))


class AnsweringPod(NamedTuple):
    """A pod of the mesh that a slice of a service names."""

    pod: ObjectName
    service_account: str
    address: str
    """One of the pod's own; empty if the slice has none of these."""
    claimed: str
    """The address in the slice."""
    ready: bool
    ports: tuple[tuple[str, int], ...]
    """Name and number of the slice's TCP ports."""


@query
def answering(mesh: MeshState, service: ObjectName, member: Member) -> tuple[AnsweringPod, ...]:
    """The pods of the mesh that the slices of a service name, ready or not.

    A user who may write an EndpointSlice can write any address. An address counts only if it is the pod's own.
    """
    found: list[AnsweringPod] = []
    for piece in _slices(mesh, service):
        ports = tuple(
            (item.name, item.port)
            for item in piece.ports or ()
            if item.port is not None and item.protocol == "TCP" and 0 < item.port < 65536
        )
        for endpoint in piece.endpoints:
            pod = pod_behind(piece, endpoint)
            running = None if pod is None else _located(mesh, pod, member)
            if pod is None or running is None or not _same(endpoint, running):
                continue
            claimed = endpoint.addresses[0] if endpoint.addresses else ""
            address = _own(claimed, running.addresses)
            ready = endpoint.conditions.ready is not False
            found.append(AnsweringPod(pod, running.service_account, address, claimed, ready, ports))
    return tuple(found)


def _same(endpoint: SliceEndpoint, running: LocatedPod) -> bool:
    """Whether an endpoint means this incarnation of the pod that it names."""
    uid = "" if endpoint.target_ref is None else endpoint.target_ref.uid
    return not uid or not running.uid or uid == running.uid


def _own(claimed: str, own: tuple[str, ...]) -> str:
    """The address in a slice if it is one of the pod's own, else an empty string."""
    if claimed in own:
        return claimed
    address = canonical(claimed)
    return address if address is not None and address in own else ""


@query
def accounts(mesh: MeshState, service: ObjectName) -> tuple[ObjectName, ...]:
    """The service accounts behind a service, sorted: of its pods with sidecars, ready or not."""
    found = {ObjectName(service.namespace, one.service_account) for one in answering(mesh, service, workload)}
    return tuple(sorted(found))


@query
def endpoints(mesh: MeshState, service: ObjectName, number: int) -> tuple[Endpoint, ...]:
    """Where a port of a service is answered now: by pods with sidecars that are ready. Sorted."""
    return offered_by(mesh, service, number, workload)


def offered_by(mesh: MeshState, service: ObjectName, number: int, member: Member) -> tuple[Endpoint, ...]:
    """Where a port of a service is answered now by such pods. Sorted."""
    offered = port(mesh, service, number)
    if offered is None:
        return ()
    _, six_first = _endpoint_settings(mesh, service)
    found: dict[tuple[ObjectName, int], Endpoint] = {}
    for pod, address, target in _answering_at(mesh, service, member).get(offered.name, ()):
        # A pod of two families stands in a slice of each: it gets one share, by the service's own family.
        offered_at = Endpoint(address, target)
        held = found.get((pod, target))
        found[pod, target] = offered_at if held is None else min(held, offered_at, key=_by_family(six_first))
    return tuple(sorted(set(found.values())))


@query
def _answering_at(
    mesh: MeshState, service: ObjectName, member: Member
) -> dict[str, tuple[tuple[ObjectName, str, int], ...]]:
    """Name of a slice's port → pod, address and number of each that answers there now.

    Apart, so that a service of many ports and endpoints goes through its endpoints once, and not for each port.
    """
    ready_or_not, _ = _endpoint_settings(mesh, service)
    found: dict[str, list[tuple[ObjectName, str, int]]] = {}
    for one in answering(mesh, service, member):
        if not one.address or not (one.ready or ready_or_not):
            continue
        for name, target in one.ports:
            found.setdefault(name, []).append((one.pod, one.address, target))
    return {name: tuple(places) for name, places in found.items()}


def _by_family(six_first: bool) -> Callable[[Endpoint], tuple[bool, Endpoint]]:  # noqa: FBT001 (one bit)
    return lambda endpoint: ((":" in endpoint.address) != six_first, endpoint)


@query
def _endpoint_settings(mesh: MeshState, service: ObjectName) -> tuple[bool, bool]:
    """Whether pods count before they are ready, and whether IPv6 is the service's first family."""
    found = mesh.services.get(service)
    if found is None:
        return False, False
    return found.spec.publish_not_ready_addresses, ":" in found.spec.cluster_ip


@query
def is_sticky(mesh: MeshState, service: ObjectName) -> bool:
    """Whether the calls of a client go to one endpoint of a service; of a headless one the client chooses it."""
    found = mesh.services.get(service)
    return found is not None and found.spec.session_affinity == "ClientIP" and found.spec.cluster_ip != "None"


@query
def addresses(mesh: MeshState, service: ObjectName) -> ServiceAddresses:
    """Where clients connect to: the cluster addresses, or those of the pods of a headless service."""
    found = mesh.services.get(service)
    if found is None:
        return ServiceAddresses(headless=False, hosts=())
    if found.spec.cluster_ip != "None":
        return ServiceAddresses(headless=False, hosts=addresses_of_service(mesh, service))
    hosts = {one.address for one in answering(mesh, service, workload) if one.address}
    return ServiceAddresses(headless=True, hosts=tuple(sorted(hosts)))


@query
def age(mesh: MeshState, service: ObjectName) -> tuple[str, ObjectName]:
    """Sort key of services: the oldest, which wins a conflict, is first."""
    found = mesh.services.get(service)
    return (found.metadata.creation_timestamp if found else "", service)
