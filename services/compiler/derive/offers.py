"""What services offer: ports and their protocols, addresses, endpoints, and the accounts behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from services.compiler.derive.membership import Workload, is_member, workload
from services.compiler.engine import query
from services.compiler.mesh import Mesh
from shared.model import EndpointSlice, ServicePort, SliceEndpoint
from shared.policy.names import ObjectName

Protocol = Literal["http", "tcp"]
"""How a proxy treats a port: HTTP (also HTTP/2, gRPC and WebSocket), or bytes. Server-first protocols are bytes like
any other: no proxy of ours waits for the client to speak."""

_HTTP = frozenset({"http", "http2", "h2c", "grpc", "grpc-web", "ws", "kubernetes.io/h2c", "kubernetes.io/ws"})
_HTTP_NAMES = ("http", "http2", "grpc", "grpc-web", "h2c", "ws")
_TCP_NAMES = ("tcp-server-first", "tcp", "https", "tls")


class Port(NamedTuple):
    """One TCP port of a service."""

    number: int
    name: str
    protocol: Protocol
    target: int | str
    """Number, or name of a container port."""


class Endpoint(NamedTuple):
    """Where one pod answers for one port of a service."""

    address: str
    port: int


class Addresses(NamedTuple):
    """Where clients connect to for a service."""

    headless: bool
    """Clients address pods themselves."""
    hosts: tuple[str, ...]
    """Sorted."""


def protocol_of(port: ServicePort) -> Protocol:
    """By `appProtocol`, else by the prefix of the port's name, else HTTP.

    An `appProtocol` that we do not know is bytes: whoever wrote `mysql` did not mean HTTP.
    """
    if port.app_protocol:
        return "http" if port.app_protocol.lower() in _HTTP else "tcp"
    name = port.name.lower()
    if any(name == prefix or name.startswith(f"{prefix}-") for prefix in _TCP_NAMES):
        return "tcp"
    return "http"


@query
def ports(mesh: Mesh, service: ObjectName) -> tuple[Port, ...]:
    """The TCP ports of a service of the mesh by number; none if it is not in the mesh or has no endpoints by kind."""
    found = mesh.services.get(service)
    if found is None or found.spec.type == "ExternalName" or not is_member(mesh, service.namespace):
        return ()
    unique: dict[int, Port] = {}
    for port in found.spec.ports:
        if port.protocol == "TCP" and 0 < port.port < 65536 and port.port not in unique:
            target = port.target_port or port.port
            unique[port.port] = Port(port.port, port.name, protocol_of(port), target)
    return tuple(unique[number] for number in sorted(unique))


@query
def port(mesh: Mesh, service: ObjectName, number: int) -> Port | None:
    """One port of a service."""
    return next((item for item in ports(mesh, service) if item.number == number), None)


@query
def _slices(mesh: Mesh, service: ObjectName) -> tuple[EndpointSlice, ...]:
    found = (mesh.slices.get(name) for name in mesh.slices_of_service.get(service))
    return tuple(piece for piece in found if piece is not None and piece.address_type in {"IPv4", "IPv6"})


Member = Callable[[Mesh, ObjectName], Workload | None]
"""Which pods count: those with a sidecar (`workload`), or those that need none (`proxyless`)."""


def _pod(mesh: Mesh, service: ObjectName, endpoint: SliceEndpoint, member: Member = workload) -> ObjectName | None:
    """The pod of the mesh behind an endpoint; none if there is no such pod, or it is another incarnation."""
    reference = endpoint.target_ref
    if reference is None or reference.kind != "Pod":
        return None
    name = ObjectName(service.namespace, reference.name)
    found = member(mesh, name)
    if found is None or (reference.uid and found.uid and reference.uid != found.uid):
        return None
    return name


@query
def accounts(mesh: Mesh, service: ObjectName) -> tuple[ObjectName, ...]:
    """The service accounts behind a service, sorted: of its pods with sidecars, ready or not."""
    found: set[ObjectName] = set()
    for piece in _slices(mesh, service):
        for endpoint in piece.endpoints:
            name = _pod(mesh, service, endpoint)
            pod = None if name is None else workload(mesh, name)
            if pod is not None:
                found.add(ObjectName(service.namespace, pod.service_account))
    return tuple(sorted(found))


@query
def endpoints(mesh: Mesh, service: ObjectName, number: int) -> tuple[Endpoint, ...]:
    """Where a port of a service is answered now: by pods with sidecars that are ready. Sorted."""
    return offered_by(mesh, service, number, workload)


def pods_behind(mesh: Mesh, service: ObjectName) -> set[ObjectName]:
    """The pods that the slices of a service name, ready or not, of the mesh or not."""
    return {
        ObjectName(service.namespace, endpoint.target_ref.name)
        for piece in _slices(mesh, service)
        for endpoint in piece.endpoints
        if endpoint.target_ref is not None and endpoint.target_ref.kind == "Pod"
    }


def offered_by(mesh: Mesh, service: ObjectName, number: int, member: Member) -> tuple[Endpoint, ...]:
    """Where a port of a service is answered now by such pods. Sorted."""
    offered = port(mesh, service, number)
    if offered is None:
        return ()
    ready_or_not, six_first = _endpoint_settings(mesh, service)
    found: dict[tuple[ObjectName, int], Endpoint] = {}
    for piece in _slices(mesh, service):
        numbers = [
            item.port
            for item in piece.ports or ()
            if item.port is not None and item.protocol == "TCP" and item.name == offered.name
        ]
        for endpoint in piece.endpoints if numbers else ():
            if not ready_or_not and endpoint.conditions.ready is False:
                continue
            pod = _pod(mesh, service, endpoint, member)
            if pod is None or not endpoint.addresses:
                continue
            for target in numbers:
                # A pod of two families stands in a slice of each: it gets one share, by the service's own family.
                offered_at = Endpoint(endpoint.addresses[0], target)
                held = found.get((pod, target))
                found[pod, target] = offered_at if held is None else min(held, offered_at, key=_by_family(six_first))
    return tuple(sorted(set(found.values())))


def _by_family(six_first: bool) -> Callable[[Endpoint], tuple[bool, Endpoint]]:  # noqa: FBT001 (one bit)
    return lambda endpoint: ((":" in endpoint.address) != six_first, endpoint)


@query
def _endpoint_settings(mesh: Mesh, service: ObjectName) -> tuple[bool, bool]:
    """Whether pods count before they are ready, and whether IPv6 is the service's first family."""
    found = mesh.services.get(service)
    if found is None:
        return False, False
    return found.spec.publish_not_ready_addresses, ":" in found.spec.cluster_ip


@query
def addresses(mesh: Mesh, service: ObjectName) -> Addresses:
    """Where clients connect to: the cluster addresses, or those of the pods of a headless service."""
    found = mesh.services.get(service)
    if found is None:
        return Addresses(headless=False, hosts=())
    spec = found.spec
    if spec.cluster_ip != "None":
        return Addresses(headless=False, hosts=tuple(sorted({ip for ip in (spec.cluster_ip, *spec.cluster_ips) if ip})))
    hosts = {
        endpoint.addresses[0]
        for piece in _slices(mesh, service)
        for endpoint in piece.endpoints
        if endpoint.addresses and _pod(mesh, service, endpoint) is not None
    }
    return Addresses(headless=True, hosts=tuple(sorted(hosts)))


@query
def age(mesh: Mesh, service: ObjectName) -> tuple[str, ObjectName]:
    """Sorts services so that the oldest is first: who wins a conflict."""
    found = mesh.services.get(service)
    return (found.metadata.creation_timestamp if found else "", service)
