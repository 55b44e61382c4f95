"""Workload classes: which proxies must hold the same configuration.

A class is made of what the configuration depends on: service account and the ports that services open on the pod.
Adding a replica adds a pod to a class and changes no configuration but endpoints. Where everybody may call and be
called (permissive mode) the account does not matter, and all pods with the same ports are one class: what a change
costs then follows the number of different ports, not of accounts.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from services.compiler import claims
from services.compiler.derive.access import scope_of
from services.compiler.derive.membership import is_permissive, proxyless, workload
from services.compiler.derive.offers import Protocol, age, ports
from services.compiler.derive.reading import Reading, reading
from services.compiler.engine import query
from services.compiler.mesh import Mesh
from shared.model import Pod
from shared.policy.names import ObjectName


class OpenPort(NamedTuple):
    """A port of a pod that some service leads to."""

    number: int
    protocol: Protocol


class WorkloadClass(NamedTuple):
    """What the configuration of a proxy depends on, besides policy."""

    account: ObjectName | None
    """None: any account, of namespaces that are permissive."""
    open_ports: tuple[OpenPort, ...]
    """By number, each once."""
    dual: bool = False
    """Whether its pods have IPv6 addresses too."""
    proxyless: bool = False
    """Whether its pods have no sidecar, but a gRPC library that speaks xDS itself."""
    namespaces: tuple[str, ...] | None = None
    """Of a class of any account: namespaces that it is told of; none: all."""
    reading: Reading = Reading()
    """Of a class of any account: how its pods read requests."""

    @property
    def id(self) -> str:
        """`namespace/account~hash`: readable, and the same wherever and whenever it is computed."""
        words = ["dual" if self.dual else "", "proxyless" if self.proxyless else ""]
        words.append("" if self.namespaces is None else repr(self.namespaces))
        if self.reading != Reading():
            words.append(repr([self.reading.slashes, *map(str, self.reading.forwarders)]))
        depends = "".join([repr([tuple(item) for item in self.open_ports]), *words])
        digest = hashlib.sha256(depends.encode()).hexdigest()
        return f"{self.account or 'permissive'}~{digest[:8]}"


class ProxyEntry(NamedTuple):
    """A proxy and its class."""

    uid: str
    account: ObjectName
    workload_class: WorkloadClass
    addresses: tuple[str, ...] | None
    """Where its streams come from; none: from its node, so anything there may be it."""


def _container_port(pod: Pod, name: str) -> int | None:
    for container in pod.spec.containers:
        for port in container.ports:
            if port.name == name and port.protocol == "TCP":
                return port.container_port
    return None


@query
def services_of_pod(mesh: Mesh, pod: ObjectName) -> tuple[ObjectName, ...]:
    """Services that lead to a pod: whose selector its labels meet, or whose hand-made slices name it. Oldest first."""
    found = mesh.pods.get(pod)
    if found is None:
        return ()
    labels = found.metadata.labels
    services: set[ObjectName] = set()
    for pair in labels.items():
        for name in mesh.services_by_selector.get((pod.namespace, *pair)):
            service = mesh.services.get(name)
            if service is not None and service.spec.selector.items() <= labels.items():
                services.add(name)
    for name, _ in mesh.services_naming_pod.get(pod):
        service = mesh.services.get(name)
        if service is not None and not service.spec.selector:
            services.add(name)
    return tuple(sorted(services, key=lambda name: age(mesh, name)))


@query
def open_ports(mesh: Mesh, pod: ObjectName) -> tuple[OpenPort, ...]:
    """Ports of a pod that services lead to. If two services disagree on a protocol, the older service wins."""
    found = mesh.pods.get(pod)
    if found is None:
        return ()
    opened: dict[int, OpenPort] = {}
    for service in services_of_pod(mesh, pod):
        for port in ports(mesh, service):
            number = _container_port(found, port.target) if isinstance(port.target, str) else port.target
            if number is not None and 0 < number < 65536 and number not in opened:
                opened[number] = OpenPort(number, port.protocol)
    return tuple(opened[number] for number in sorted(opened))


def _peer_addresses(mesh: Mesh, pod: ObjectName) -> tuple[str, ...] | None:
    found = mesh.pods.get(pod)
    return None if found is not None and found.spec.host_network else claims.of_pod(found)


@query
def proxy(mesh: Mesh, pod: ObjectName) -> ProxyEntry | None:
    """The proxy in a pod, and its class; none if the pod has none."""
    addresses = _peer_addresses(mesh, pod)
    found = workload(mesh, pod)
    if found is None:
        alone = proxyless(mesh, pod)
        if alone is None:
            return None
        account = ObjectName(pod.namespace, alone.service_account)
        return ProxyEntry(alone.uid, account, WorkloadClass(account, (), proxyless=True), addresses)
    account = ObjectName(pod.namespace, found.service_account)
    opened = open_ports(mesh, pod)
    scope = scope_of(mesh, account, found.dual)
    if scope.account is None and is_permissive(mesh, account.namespace):
        shared = WorkloadClass(
            None, opened, found.dual, namespaces=scope.namespaces, reading=reading(mesh, account.namespace)
        )
        return ProxyEntry(found.uid, account, shared, addresses)
    return ProxyEntry(found.uid, account, WorkloadClass(account, opened, found.dual), addresses)
