"""Which ports of a pod are open: those that Services lead to, as many as the budgets of pod and namespace allow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from services.compiler.derive.membership import workload
from services.compiler.derive.services.offers import accounts, age, ports
from services.compiler.engine import exception_query, query
from services.compiler.ir import OpenPort, Protocol
from services.compiler.mesh_state import MeshState, SelectorPair
from shared.kubernetes.reserved_ports import LISTENING
from shared.policy.object_name import ObjectName
from shared.projected_objects import Pod


@query
def services_of_pod(mesh: MeshState, pod: ObjectName) -> tuple[ObjectName, ...]:
    """Services that lead to a pod: whose selector its labels meet, or whose hand-made slices name it. Oldest first."""
    found = mesh.pods.get(pod)
    if found is None:
        return ()
    labels = found.metadata.labels
    services: set[ObjectName] = set()
    for pair in labels.items():
        for name in mesh.services_by_selector.get(SelectorPair(pod.namespace, *pair)):
            service = mesh.services.get(name)
            if service is not None and service.spec.selector.items() <= labels.items():
                services.add(name)
    for name, _ in mesh.services_naming_pod.get(pod):
        service = mesh.services.get(name)
        if service is not None and not service.spec.selector:
            services.add(name)
    return tuple(sorted(services, key=lambda name: age(mesh, name)))


@query
def open_ports(mesh: MeshState, pod: ObjectName) -> tuple[OpenPort, ...]:
    """Ports of a pod that services lead to. If two services disagree on a protocol, the older service wins.

    It wins also where it is beyond a budget and opens nothing: what is left out must not change what a younger service
    opens.
    """
    found = mesh.pods.get(pod)
    if found is None:
        return ()
    most, beyond = mesh.settings.budgets.pod_open_ports, services_beyond(mesh, pod.namespace)
    protocols: dict[int, Protocol] = {}
    opened: set[int] = set()
    named, seen = _container_ports(found), 0
    for service in services_of_pod(mesh, pod):
        offered = ports(mesh, service)
        seen += len(offered)
        if seen > _SEEN * most:
            break  # all that follow are younger: they decide no protocol
        numbers: set[int] = set()
        for port in offered:
            number = named.get(port.target) if isinstance(port.target, str) else port.target
            # What its own admin or a listener of the proxy answers is no application.
            if number is not None and 0 < number < 65536 and number not in LISTENING:
                protocols.setdefault(number, port.protocol)
                numbers.add(number)
        if service not in beyond and len(opened | numbers) <= most:
            opened |= numbers
    return tuple(OpenPort(number, protocols[number]) for number in sorted(opened))


def _container_ports(pod: Pod) -> dict[str, int]:
    found: dict[str, int] = {}
    for container in pod.spec.containers:
        for port in container.ports:
            if port.protocol == "TCP":
                found.setdefault(port.name, port.container_port)
    return found


@query
def _faces(
    mesh: MeshState, account: ObjectName
) -> tuple[tuple[tuple[ObjectName, ...], tuple[tuple[str, int], ...]], ...]:
    """The different pods of an account by the services that lead to them, and their named ports. Sorted."""
    found: set[tuple[tuple[ObjectName, ...], tuple[tuple[str, int], ...]]] = set()
    for name in mesh.pods_of_account.get(account):
        pod = mesh.pods.get(name)
        if pod is not None and workload(mesh, name) is not None:
            found.add((services_of_pod(mesh, name), tuple(sorted(_container_ports(pod).items()))))
    return tuple(sorted(found))


class OverruledPort(NamedTuple):
    """A port of a service that an older one takes for something else."""

    number: int
    protocol: Protocol
    """Its own protocol."""
    target: int
    """Of the pods."""
    by: ObjectName


@query
def overruled(mesh: MeshState, service: ObjectName) -> tuple[OverruledPort, ...]:
    """Ports of a service whose protocol another, older one decides otherwise. Sorted."""
    found: set[OverruledPort] = set()
    for account in accounts(mesh, service):
        for shape, named in _faces(mesh, account):
            if service in shape:
                found.update(_overruled(mesh, service, shape[: shape.index(service)], dict(named)))
    return tuple(sorted(found))


def _overruled(
    mesh: MeshState, service: ObjectName, older: tuple[ObjectName, ...], named: dict[str, int]
) -> Iterable[OverruledPort]:
    decided: dict[int, tuple[Protocol, ObjectName]] = {}
    for other in older:
        for port in ports(mesh, other):
            number = named.get(port.target) if isinstance(port.target, str) else port.target
            if number is not None:
                decided.setdefault(number, (port.protocol, other))
    for port in ports(mesh, service):
        number = named.get(port.target) if isinstance(port.target, str) else port.target
        if number in decided and decided[number][0] != port.protocol:
            yield OverruledPort(port.number, port.protocol, number, decided[number][1])


Shape = tuple[ObjectName, ...]
"""Services that lead to a pod, oldest first."""


@query
def shapes(mesh: MeshState, account: ObjectName) -> tuple[tuple[Shape, int], ...]:
    """The different pods of an account by the services that lead to them, and the ports of these. Sorted."""
    found = {services_of_pod(mesh, pod) for pod in mesh.pods_of_account.get(account) if workload(mesh, pod) is not None}
    return tuple(sorted((shape, sum(len(ports(mesh, service)) for service in shape)) for shape in found))


@exception_query
def services_beyond(mesh: MeshState, namespace: str) -> frozenset[ObjectName]:
    """Services that open no port, because the older ones of the namespace have used up its budget of open ports.

    What counts is the ports of a service, once for each kind of pod that it leads to: each is a chain of a listener.
    """
    opens: dict[ObjectName, int] = {}
    for account in mesh.accounts_of_namespace.get(namespace):
        for shape, _ in shapes(mesh, account):
            for service in shape:
                opens[service] = opens.get(service, 0) + len(ports(mesh, service))
    most = mesh.settings.budgets.namespace_open_ports
    if sum(opens.values()) <= most:
        return frozenset()
    beyond: set[ObjectName] = set()
    total = 0
    for service in sorted(opens, key=lambda name: age(mesh, name)):
        if total + opens[service] > most:
            beyond.add(service)
        else:
            total += opens[service]
    return frozenset(beyond)


_SEEN = 4
"""How often the ports that a pod may have open are looked at, for their protocols, at most."""
