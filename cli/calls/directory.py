"""Directory of pods, service accounts and services by the names that users type, read from events.

It reads events, not files or an API, so that the same code serves a folder of manifests and any past version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from services.compiler.address_claims import of_service, pod_behind
from services.compiler.derive.services.protocols import spoken
from shared.errors import BadInputError
from shared.io.decoding import UndecodableError, decode
from shared.policy.object_name import ObjectName
from shared.projected_objects import ANNOTATION_SIDECAR, EndpointSlice, Pod, Service
from shared.records.events import DELETED, Event
from shared.records.snapshot import proxy_key
from shared.records.withheld import said

_SERVICE_NAME = "kubernetes.io/service-name"
_OVER = frozenset({"Succeeded", "Failed"})
S = TypeVar("S", Pod, Service, EndpointSlice)


class PodEntry(msgspec.Struct, frozen=True):
    """A pod."""

    name: ObjectName
    account: ObjectName
    addresses: tuple[str, ...]
    sidecar: bool


class ServiceEntry(msgspec.Struct, frozen=True):
    """A service."""

    name: ObjectName
    addresses: tuple[str, ...]
    """Addresses that clients connect to; for a headless service those of its pods."""
    ports: tuple[int, ...]
    """TCP ports."""
    http: frozenset[int]
    """Ports that sidecars read as HTTP."""
    assumed: frozenset[int]
    """Ports whose protocol is a default: the Service declares none."""
    pods: tuple[ObjectName, ...]
    withheld: str = ""
    """Why the log has only its closed form, which has no ports; empty if it has the Service."""


class Directory:
    """The pods and services of a cluster."""

    def __init__(self, events: Iterable[Event], *, cluster: str) -> None:
        self.cluster = cluster
        pods: dict[ObjectName, Pod] = {}
        services: dict[ObjectName, Service] = {}
        slices: dict[ObjectName, EndpointSlice] = {}
        closed: dict[ObjectName, str] = {}
        for event in events:
            name = ObjectName(event.namespace, event.name)
            if event.kind == "Pod":
                _keep(pods, name, event, Pod)
            elif event.kind == "Service":
                _keep(services, name, event, Service)
                closed[name] = said(event.kind, event.withheld)[1] if event.withheld else ""
            elif event.kind == "EndpointSlice":
                _keep(slices, name, event, EndpointSlice)
        self.pods = {name: _pod(name, pod) for name, pod in sorted(pods.items()) if pod.status.phase not in _OVER}
        pieces: dict[ObjectName, list[EndpointSlice]] = {}
        for name, piece in slices.items():
            service = ObjectName(name.namespace, piece.metadata.labels.get(_SERVICE_NAME, ""))
            pieces.setdefault(service, []).append(piece)
        self.services = {
            name: msgspec.structs.replace(_service(name, one, pieces.get(name, []), self.pods), withheld=closed[name])
            for name, one in sorted(services.items())
        }

    @property
    def sidecars(self) -> dict[str, str]:
        """Address → key of the proxy that answers there."""
        found = [pod for pod in self.pods.values() if pod.sidecar]
        return {address: self.key(pod.name) for pod in found for address in pod.addresses}

    def key(self, pod: ObjectName) -> str:
        """The key of the proxy in a pod."""
        return proxy_key(self.cluster, pod.namespace, pod.name)

    def named(self, text: str) -> tuple[str, ObjectName]:
        """Read `NS/POD`, `sa:NS/NAME` or `svc:NS/NAME`. Raises `BadInputError` for an unknown name."""
        kind, separator, rest = text.partition(":")
        if not separator:
            kind, rest = "pod", text
        namespace, slash, name = rest.partition("/")
        if kind not in {"pod", "sa", "svc"} or not (slash and namespace and name):
            raise BadInputError("check/name", f"{text!r} must be NS/POD, sa:NS/NAME or svc:NS/NAME")
        found = ObjectName(namespace, name)
        if kind == "pod":
            found = self._whole_pod_name(found)
        if kind == "svc" and found not in self.services:
            raise BadInputError("check/unknown", f"there is no Service {found}{_near(found, self.services)}")
        if not self.pods_of(kind, found) and kind != "svc":
            raise BadInputError("check/unknown", f"no pod runs as service account {found}")
        return kind, found

    def _whole_pod_name(self, name: ObjectName) -> ObjectName:
        """A pod by its name, or by the name of its Deployment, with which its name begins."""
        if name in self.pods:
            return name
        found = [pod for pod in self.pods if pod.namespace == name.namespace and pod.name.startswith(f"{name.name}-")]
        if not found:
            raise BadInputError("check/unknown", f"there is no pod {name}{_near(name, self.pods)}")
        return found[0]

    def pods_of(self, kind: str, name: ObjectName) -> list[PodEntry]:
        """The pods that a name refers to."""
        if kind == "svc":
            return [self.pods[pod] for pod in self.services[name].pods if pod in self.pods]
        return [pod for pod in self.pods.values() if name == (pod.name if kind == "pod" else pod.account)]

    def services_over(self, pod: ObjectName) -> list[ServiceEntry]:
        """Services that select a pod."""
        return [service for service in self.services.values() if pod in service.pods]


def _keep(objects: dict[ObjectName, S], name: ObjectName, event: Event, kind: type[S]) -> None:
    if event.operation == DELETED or event.object is None:
        objects.pop(name, None)
    else:
        try:
            objects[name] = decode(kind, event.object)
        except UndecodableError:
            objects.pop(name, None)  # the compiler left it out as well


def _service(
    name: ObjectName, service: Service, pieces: Iterable[EndpointSlice], pods: Mapping[ObjectName, PodEntry]
) -> ServiceEntry:
    named = [(pod_behind(piece, endpoint), endpoint) for piece in pieces for endpoint in piece.endpoints]
    endpoints = [(pods.get(pod), pod, endpoint.addresses) for pod, endpoint in named if pod is not None]
    spec = service.spec
    addresses: Iterable[str] = of_service(service)
    if spec.cluster_ip == "None":
        # An address of a slice counts only if it is the pod's own: sidecars are configured with no other.
        addresses = [each[0] for pod, _, each in endpoints if pod is not None and each and each[0] in pod.addresses]
    reads = {port.port: spoken(port) for port in spec.ports if port.protocol == "TCP"}
    return ServiceEntry(
        name=name,
        addresses=tuple(dict.fromkeys(addresses)),
        ports=tuple(sorted({port.port for port in spec.ports if port.protocol == "TCP"})),
        http=frozenset(number for number, one in reads.items() if one.protocol == "http"),
        assumed=frozenset(number for number, one in reads.items() if not one.said),
        pods=tuple(dict.fromkeys(pod for _, pod, _ in endpoints)),
    )


def _pod(name: ObjectName, pod: Pod) -> PodEntry:
    addresses = [ip for ip in (pod.status.pod_ip, *(one.ip for one in pod.status.pod_ips)) if ip]
    return PodEntry(
        name=name,
        account=ObjectName(name.namespace, pod.spec.service_account_name or "default"),
        addresses=tuple(dict.fromkeys(addresses)),
        sidecar=ANNOTATION_SIDECAR in pod.metadata.annotations,
    )


def _near(name: ObjectName, known: Iterable[ObjectName]) -> str:
    there = [one.name for one in known if one.namespace == name.namespace]
    return f"; in {name.namespace} there are {', '.join(there[:8])}" if there else ""
