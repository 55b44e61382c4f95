"""The EndpointSlice controller: writes the endpoints of each Service from the pods that it selects.

A slice contains all pods whose named ports resolve to the same numbers, so most Services have one slice. Slices of a
Service without selector are left to their owner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Cluster, KubeApiError, Obj
from deploy.devcluster.object_cache import ObjectCache
from deploy.devcluster.object_fields import Key

_SLICES = "endpointslices.discovery.k8s.io"
_SERVICE_NAME = "kubernetes.io/service-name"
_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
_MANAGER = "endpointslice-controller.k8s.io"
_HEADLESS = "service.kubernetes.io/headless"


class EndpointSliceController:
    """Reconciles the EndpointSlices of Services."""

    def __init__(self, cluster: Cluster, cache: ObjectCache) -> None:
        self._cluster = cluster
        self._cache = cache

    def concerned(self, pod: Obj) -> list[Key]:
        """The Services that select this pod."""
        namespace = object_fields.namespace(pod)
        return [
            object_fields.key(service)
            for service in self._cache.all("services", namespace)
            if _selects(service, object_fields.labels(pod))
        ]

    async def reconcile(self, key: Key) -> float | None:
        """Create, patch and delete the slices of one Service so that they match its pods."""
        service = self._cache.get("services", *key)
        if service is not None and not service["spec"].get("selector"):
            return None
        wanted: dict[str, Obj] = {}
        if service is not None:
            pods = [pod for pod in self._cache.all("pods", key[0]) if _selects(service, object_fields.labels(pod))]
            wanted = {object_fields.name(each): each for each in slices_of(service, pods)}
        present = {
            object_fields.name(each): each
            for each in self._cache.all(_SLICES, key[0])
            if object_fields.labels(each).get(_SERVICE_NAME) == key[1]
            and object_fields.labels(each).get(_MANAGED_BY) == _MANAGER
        }
        for name, each in wanted.items():
            before = present.get(name)
            if before is None or object_fields.uid(before) == "":
                await self._cluster.create(_SLICES, each)
            elif not _holds(before, each):
                await self._replace(before, each)
        for name in present.keys() - wanted.keys():
            await self._cluster.delete(_SLICES, key[0], name)
        return None

    async def _replace(self, before: Obj, wanted: Obj) -> None:
        if before["metadata"].get("ownerReferences") != wanted["metadata"]["ownerReferences"]:
            await self._cluster.delete(_SLICES, *object_fields.key(before))
            await self._cluster.create(_SLICES, wanted)
            return
        labels = wanted["metadata"]["labels"]
        merge: Obj = {
            "metadata": {"labels": labels | dict.fromkeys(object_fields.labels(before).keys() - labels.keys())},
            "endpoints": wanted["endpoints"],
            "ports": wanted["ports"],
        }
        try:
            await self._cluster.patch(_SLICES, *object_fields.key(before), merge)
        except KubeApiError as error:
            if error.status != 404:
                raise
            await self._cluster.create(_SLICES, wanted)


def slices_of(service: Obj, pods: Iterable[Obj]) -> list[Obj]:
    """The slices of a Service for the pods that it selects. Pure."""
    groups: dict[tuple[tuple[str, int, str, str], ...], list[Obj]] = {}
    for pod in sorted(pods, key=object_fields.name):
        status: Obj = pod.get("status") or {}
        if status.get("podIP") and not object_fields.is_pod_finished(pod):
            groups.setdefault(_ports_of(service, pod), []).append(_endpoint(service, pod))
    if not groups:
        groups[_ports_of(service, None)] = []
    return [_slice(service, ports, endpoints) for ports, endpoints in groups.items()]


def _slice(service: Obj, ports: Sequence[tuple[str, int, str, str]], endpoints: Sequence[Obj]) -> Obj:
    labels = {name: value for name, value in object_fields.labels(service).items() if name != _HEADLESS}
    labels |= {_SERVICE_NAME: object_fields.name(service), _MANAGED_BY: _MANAGER}
    if service["spec"].get("clusterIP") == "None":
        labels[_HEADLESS] = ""
    # The name stays the same while endpoints change: it depends on the Service and, if ports are named, on the
    # resolved port numbers.
    named = any(isinstance(each.get("targetPort"), str) for each in service["spec"].get("ports") or [])
    suffix = object_fields.safe_hash([object_fields.uid(service), ports if named else []], 5)
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{object_fields.name(service)}-{suffix}",
            "namespace": object_fields.namespace(service),
            "labels": labels,
            "ownerReferences": [object_fields.controller_reference({"apiVersion": "v1", "kind": "Service"} | service)],
        },
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [
            {"name": name, "port": port, "protocol": protocol} | ({"appProtocol": app} if app else {})
            for name, port, protocol, app in ports
        ],
    }


def _endpoint(service: Obj, pod: Obj) -> Obj:
    serving = object_fields.is_pod_ready(pod)
    terminating = object_fields.is_terminating(pod)
    always = bool(service["spec"].get("publishNotReadyAddresses"))
    endpoint: Obj = {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {
            "ready": always or (serving and not terminating),
            "serving": serving or always,
            "terminating": terminating,
        },
        "nodeName": pod["spec"].get("nodeName", ""),
        "targetRef": {
            "kind": "Pod",
            "name": object_fields.name(pod),
            "namespace": object_fields.namespace(pod),
            "uid": object_fields.uid(pod),
        },
    }
    if pod["spec"].get("hostname") and pod["spec"].get("subdomain") == object_fields.name(service):
        endpoint["hostname"] = pod["spec"]["hostname"]
    return endpoint


def _ports_of(service: Obj, pod: Obj | None) -> tuple[tuple[str, int, str, str], ...]:
    """(name, number, protocol, application protocol) in the Service's order, without named ports that the pod lacks."""
    resolved: list[tuple[str, int, str, str]] = []
    for port in service["spec"].get("ports") or []:
        protocol = port.get("protocol", "TCP")
        target = port.get("targetPort") or port["port"]
        number = target if isinstance(target, int) else _port_named(pod, target, protocol)
        if number is not None:
            resolved.append((port.get("name", ""), number, protocol, port.get("appProtocol", "")))
    return tuple(resolved)


def _port_named(pod: Obj | None, wanted: str, protocol: str) -> int | None:
    if pod is None:
        return None
    sidecars = [each for each in pod["spec"].get("initContainers") or [] if each.get("restartPolicy") == "Always"]
    for container in [*pod["spec"]["containers"], *sidecars]:
        for port in container.get("ports") or []:
            if port.get("name") == wanted and port.get("protocol", "TCP") == protocol:
                return port["containerPort"]
    return None


def _selects(service: Obj, candidate: dict[str, str]) -> bool:
    selector: dict[str, str] = service["spec"].get("selector") or {}
    return bool(selector) and selector.items() <= candidate.items()


def _holds(before: Obj, wanted: Obj) -> bool:
    return (
        object_fields.labels(before) == wanted["metadata"]["labels"]
        and before["metadata"].get("ownerReferences") == wanted["metadata"]["ownerReferences"]
        and (before.get("endpoints") or []) == wanted["endpoints"]
        and (before.get("ports") or []) == wanted["ports"]
    )
