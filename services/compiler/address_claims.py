"""What objects claim, read from each object alone: the addresses of a pod and of a Service, the pods of a slice.

A claim is not a right: `services.compiler.derive.services.address_owner` decides whose an address is. Apart from it,
because the indexes that queries look claims up in are kept while events are folded.
"""

from __future__ import annotations

from collections.abc import Iterable

from shared.io.addresses import canonical
from shared.policy.object_name import ObjectName
from shared.projected_objects import EndpointSlice, Pod, Service, SliceEndpoint

ENDED = frozenset({"Succeeded", "Failed"})
"""Phases of a pod that runs no more. Its status keeps an address that another pod may have by now."""


def of_pod(pod: Pod | None) -> tuple[str, ...]:
    """Addresses that a pod claims, in their one spelling; none once it has ended."""
    if pod is None or pod.status.phase in ENDED:
        return ()
    status = pod.status
    return _addresses((status.pod_ip, *(each.ip for each in status.pod_ips)))


def of_service(service: Service | None) -> tuple[str, ...]:
    """Cluster addresses that a Service claims, in their one spelling; none if it is headless or has none by type."""
    if service is None or service.spec.type == "ExternalName" or service.spec.cluster_ip == "None":
        return ()
    return _addresses((service.spec.cluster_ip, *service.spec.cluster_ips))


def _addresses(texts: Iterable[str]) -> tuple[str, ...]:
    found = (canonical(text) for text in texts if text)
    return tuple(dict.fromkeys(address for address in found if address is not None))


def pod_behind(piece: EndpointSlice, endpoint: SliceEndpoint) -> ObjectName | None:
    """The pod that an endpoint of a slice names, in the slice's own namespace; `None` if it names none."""
    reference, namespace = endpoint.target_ref, piece.metadata.namespace
    if reference is None or reference.kind != "Pod" or reference.namespace not in {"", namespace}:
        return None
    return ObjectName(namespace, reference.name)
