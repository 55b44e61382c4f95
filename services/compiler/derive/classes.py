"""Workload classes: which proxies must hold the same configuration.

A class is made of what the configuration depends on: service account and the ports that services open on the pod.
Adding a replica adds a pod to a class and changes no configuration but endpoints. In permissive mode every
account may call and be called, so the account does not matter, and all pods with the same ports are one class: the
cost of a change then follows the number of different ports, not of accounts.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from services.compiler import address_claims
from services.compiler.derive.membership import is_permissive, proxyless, workload
from services.compiler.derive.policy.reachable_services import scope_of
from services.compiler.derive.request_handling import RequestHandling, reading
from services.compiler.derive.services.open_ports import OpenPort, open_ports
from services.compiler.engine import query
from services.compiler.mesh_state import MeshState
from shared.policy.object_name import ObjectName


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
    """Of a class of any account: namespaces whose services it gets; None means all."""
    reading: RequestHandling = RequestHandling()
    """Of a class of any account: how its pods read requests."""

    @property
    def id(self) -> str:
        """`namespace/account~hash`: readable, and the same wherever and whenever it is computed."""
        words = ["dual" if self.dual else "", "proxyless" if self.proxyless else ""]
        words.append("" if self.namespaces is None else repr(self.namespaces))
        if self.reading != RequestHandling():
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


def _peer_addresses(mesh: MeshState, pod: ObjectName) -> tuple[str, ...] | None:
    found = mesh.pods.get(pod)
    return None if found is not None and found.spec.host_network else address_claims.of_pod(found)


@query
def proxy(mesh: MeshState, pod: ObjectName) -> ProxyEntry | None:
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
