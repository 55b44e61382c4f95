"""Simulates a cluster: the objects that controllers, scheduler and injector would make of some manifests.

Pods and EndpointSlices among the manifests are used unchanged. For workloads and Services without them they are
generated: every replica runs and is ready, addresses are assigned in order. The same manifests give the same cluster in
any order.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import msgspec

from cli.kubernetes.manifest_files import id_of
from services.ingestor.core.projection import UnreadableObjectError, project
from services.injector.core.decision import NamespaceMeta, decide
from shared.errors import BadInputError
from shared.projected_objects import ANNOTATION_SIDECAR, KINDS
from shared.records.events import APPLIED, SCHEMA, Event

Manifest = dict[str, Any]

CLUSTER = "offline"
_WORKLOADS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"})
_CLUSTER_SCOPED = frozenset({"Namespace"})
_SERVICE_NAME = "kubernetes.io/service-name"
MAX_REPLICAS = 100
"""Maximum number of pods generated for one workload; more of them change no configuration but endpoints."""


def cluster_of(manifests: Sequence[Manifest], *, mesh_name: str, mesh_namespace: str) -> list[Event]:
    """The events that an ingestor would write for these manifests, in a fixed order.

    Raises `BadInputError` for an object that cannot be read as its kind.
    """
    objects = sorted((_named(copy.deepcopy(item)) for item in manifests), key=id_of)
    namespaces = {
        name: NamespaceMeta(name=name, labels=meta.get("labels") or {}, annotations=meta.get("annotations") or {})
        for item in objects
        if item["kind"] == "Namespace" and (meta := item["metadata"]) and (name := meta["name"])
    }
    addresses = _AddressPool()
    pods = [item for item in objects if item["kind"] == "Pod"]
    for item in objects:
        if item["kind"] in _WORKLOADS:
            pods += _replicas(item, pods)
    for pod in pods:
        _schedule(pod, addresses)
        namespace = namespaces.get(pod["metadata"]["namespace"])
        if namespace and decide(pod, namespace, mesh_name=mesh_name, mesh_namespace=mesh_namespace).inject:
            pod["metadata"].setdefault("annotations", {})[ANNOTATION_SIDECAR] = "offline"
    services = [item for item in objects if item["kind"] == "Service"]
    for service in services:
        _give_address(service, addresses)
    slices = [item for item in objects if item["kind"] == "EndpointSlice"]
    known = {
        (item["metadata"]["namespace"], (item["metadata"].get("labels") or {}).get(_SERVICE_NAME)) for item in slices
    }
    slices += [
        piece
        for service in services
        if (service["metadata"]["namespace"], service["metadata"]["name"]) not in known
        and (piece := _slice(service, pods)) is not None
    ]
    made = {"Pod", "Service", "EndpointSlice"}
    rest = [item for item in objects if item["kind"] in KINDS and item["kind"] not in made]
    return [_event(item) for item in sorted([*rest, *pods, *services, *slices], key=id_of)]


def as_they_are(objects: Sequence[Manifest]) -> list[Event]:
    """The events of objects of a running cluster, in a fixed order; nothing is generated."""
    known = (copy.deepcopy(item) for item in objects if item["kind"] in KINDS)
    return [_event(item) for item in sorted(map(_named, known), key=id_of)]


def _named(item: Manifest) -> Manifest:
    meta = item.setdefault("metadata", {})
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str):
        raise BadInputError("manifest/name", f"a {item.get('kind')} has no metadata.name")
    meta["namespace"] = "" if item["kind"] in _CLUSTER_SCOPED else meta.get("namespace") or "default"
    meta.setdefault("uid", f"{item['kind']}-{meta['namespace']}-{meta['name']}")
    return item


class _AddressPool:
    def __init__(self) -> None:
        self._pods = 0
        self._services = 0

    def pod(self) -> str:
        self._pods += 1
        return f"10.244.{self._pods // 250}.{self._pods % 250 + 1}"

    def service(self) -> str:
        self._services += 1
        return f"10.96.{self._services // 250}.{self._services % 250 + 1}"


def _spec(item: Manifest) -> Manifest:
    spec = item.get("spec")
    return spec if isinstance(spec, dict) else {}


def _labels(item: Manifest) -> dict[str, str]:
    return (item.get("metadata") or {}).get("labels") or {}


def _replicas(workload: Manifest, pods: Sequence[Manifest]) -> list[Manifest]:
    """The generated pods of a workload; empty if its pods are among the manifests."""
    spec, meta = _spec(workload), workload["metadata"]
    wanted = (spec.get("selector") or {}).get("matchLabels") or {}
    owned = [pod for pod in pods if pod["metadata"]["namespace"] == meta["namespace"]]
    if wanted and any(wanted.items() <= _labels(pod).items() for pod in owned):
        return []
    template = spec.get("template") or {}
    replicas = spec.get("replicas", 1) if workload["kind"] != "DaemonSet" else 1
    count = min(replicas if isinstance(replicas, int) else 1, MAX_REPLICAS)
    found: list[Manifest] = []
    for index in range(count):
        pod: Manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": copy.deepcopy(template.get("metadata") or {})}
        pod["metadata"] |= {"name": f"{meta['name']}-{index}", "namespace": meta["namespace"]}
        pod["metadata"]["uid"] = f"Pod-{meta['namespace']}-{meta['name']}-{index}"
        pod["spec"] = copy.deepcopy(template.get("spec") or {})
        found.append(pod)
    return found


def _schedule(pod: Manifest, addresses: _AddressPool) -> None:
    _spec(pod).setdefault("serviceAccountName", "default")
    status = pod.setdefault("status", {})
    status.setdefault("phase", "Running")
    if not status.get("podIP"):
        status["podIP"] = addresses.pod()


def _give_address(service: Manifest, addresses: _AddressPool) -> None:
    spec = _spec(service)
    if not spec.get("clusterIP") and spec.get("type") != "ExternalName":
        spec["clusterIP"] = addresses.service()


def _target(port: Manifest, pod: Manifest) -> int | None:
    wanted = port.get("targetPort") or port.get("port")
    if isinstance(wanted, int):
        return wanted
    for container in _spec(pod).get("containers") or ():
        for offered in container.get("ports") or ():
            if offered.get("name") == wanted:
                return offered.get("containerPort")
    return None


def _slice(service: Manifest, pods: Sequence[Manifest]) -> Manifest | None:
    spec, meta = _spec(service), service["metadata"]
    selector = spec.get("selector") or {}
    if not selector:
        return None
    behind = [
        pod
        for pod in pods
        if pod["metadata"]["namespace"] == meta["namespace"] and selector.items() <= _labels(pod).items()
    ]
    endpoints = [
        {
            "addresses": [pod["status"]["podIP"]],
            "conditions": {"ready": True},
            "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]},
        }
        for pod in behind
    ]
    ports = [
        {"name": port.get("name", ""), "port": number, "protocol": port.get("protocol", "TCP")}
        for port in spec.get("ports") or ()
        if (number := next((found for pod in behind if (found := _target(port, pod))), None)) is not None
    ]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{meta['name']}-made",
            "namespace": meta["namespace"],
            "uid": f"EndpointSlice-{meta['namespace']}-{meta['name']}",
            "labels": {_SERVICE_NAME: meta["name"]},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    }


def _event(item: Manifest) -> Event:
    meta = item["metadata"]
    about = f"{item['kind']} {meta['namespace']}/{meta['name']}"
    try:
        payload = msgspec.json.encode(item)
        projected = project(item["kind"], payload, api_version=item.get("apiVersion", ""), source="file")
    except UnreadableObjectError as error:
        raise BadInputError("manifest/unreadable", error.sentence, about=about) from error
    except TypeError as error:
        raise BadInputError(
            "manifest/value", f"holds a value that JSON does not have ({error})", about=about
        ) from error
    return Event(
        schema=SCHEMA,
        cluster=CLUSTER,
        kind=item["kind"],
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        resource_version="1",
        operation=APPLIED,
        api_version=item.get("apiVersion", ""),
        object=msgspec.Raw(projected.body),
        withheld=projected.withheld,
        why=projected.why,
    )
