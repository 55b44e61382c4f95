"""Events for tests, as an ingestor would write them: one short call for each object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.projected_objects import (
    ANNOTATION_SIDECAR,
    LABEL_MONITORED_BY,
    Container,
    ContainerPort,
    EndpointConditions,
    EndpointSlice,
    Meta,
    Namespace,
    Pod,
    PodIp,
    PodSpec,
    PodStatus,
    PolicyObject,
    Service,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
    TargetRef,
)
from shared.records.events import Event, encode_object

CLUSTER = "cluster"
ACCESS = "access.smi-spec.io/v1alpha3"
SPECS = "specs.smi-spec.io/v1alpha4"
SPLIT = "split.smi-spec.io/v1alpha4"


def event(kind: str, namespace: str, name: str, value: Any, *, api_version: str = "v1", version: str = "1") -> Event:
    """One object as it is now; none: deleted."""
    return Event(
        schema=1,
        cluster=CLUSTER,
        kind=kind,
        namespace=namespace,
        name=name,
        uid=f"{kind}-{namespace}-{name}",
        resource_version=version,
        operation="deleted" if value is None else "applied",
        api_version="" if value is None else api_version,
        object=None if value is None else encode_object(value),
    )


def deleted(kind: str, namespace: str, name: str) -> Event:
    return event(kind, namespace, name, None)


def namespace(
    name: str,
    *,
    mesh: str | None = "meshlog",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Event:
    own = {} if mesh is None else {LABEL_MONITORED_BY: mesh}
    meta = Meta(name=name, labels={**own, **(labels or {})}, annotations=dict(annotations or {}))
    return event("Namespace", "", name, Namespace(meta))


def pod(
    namespace: str,
    name: str,
    *,
    account: str,
    ip: str,
    labels: Mapping[str, str] | None = None,
    sidecar: bool = True,
    phase: str = "Running",
    named_ports: Mapping[str, int] | None = None,
    ips: Sequence[str] = (),
    created: str = "",
    deleted: str = "",
    host_network: bool = False,
) -> Event:
    meta = Meta(
        name=name,
        namespace=namespace,
        uid=f"Pod-{namespace}-{name}",
        labels=dict(labels or {}),
        annotations={ANNOTATION_SIDECAR: "0"} if sidecar else {},
        creation_timestamp=created,
        deletion_timestamp=deleted,
    )
    ports = [ContainerPort(container_port=number, name=port) for port, number in (named_ports or {}).items()]
    containers = [Container(name="app", ports=ports)]
    spec = PodSpec(service_account_name=account, containers=containers, host_network=host_network)
    return event(
        "Pod",
        namespace,
        name,
        Pod(meta, spec, PodStatus(phase=phase, pod_ip=ip, pod_ips=[PodIp(ip=each) for each in ips])),
    )


def service(
    namespace: str,
    name: str,
    *,
    ip: str = "10.96.1.1",
    ports: Sequence[ServicePort] = (ServicePort(port=80, target_port=8080),),
    selector: Mapping[str, str] | None = None,
    created: str = "2026-01-01T00:00:00Z",
    **spec: Any,
) -> Event:
    meta = Meta(name=name, namespace=namespace, creation_timestamp=created)
    selector = {"app": name} if selector is None else selector
    value = Service(meta, ServiceSpec(cluster_ip=ip, selector=dict(selector), ports=list(ports), **spec))
    return event("Service", namespace, name, value)


def slices(
    namespace: str,
    service: str,
    pods: Mapping[str, str],
    *,
    ports: Mapping[str, int] | None = None,
    unready: Sequence[str] = (),
    suffix: str = "0",
    pod_namespace: str = "",
    kind: str = "Pod",
    family: str = "IPv4",
) -> Event:
    """An EndpointSlice: pod name → address; `pod_namespace` and `kind` of what it says is behind them."""
    meta = Meta(name=f"{service}-{suffix}", namespace=namespace, labels={"kubernetes.io/service-name": service})
    found = [
        SliceEndpoint(
            addresses=[address],
            conditions=EndpointConditions(ready=name not in unready),
            target_ref=TargetRef(
                kind=kind, name=name, namespace=pod_namespace or namespace, uid=f"Pod-{namespace}-{name}"
            ),
        )
        for name, address in pods.items()
    ]
    offered = [SlicePort(name=name, port=number) for name, number in (ports or {"": 8080}).items()]
    return event("EndpointSlice", namespace, f"{service}-{suffix}", EndpointSlice(meta, family, found, offered))


def answered_at(port: int) -> Event:
    """The bookstore's first version is reached at another port of its pod: a change of one endpoint."""
    return slices("store", "store-v1", {"v1-0": "10.244.2.1"}, ports={"": port})


def policy(kind: str, namespace: str, name: str, spec: Mapping[str, Any], *, api_version: str, created: str) -> Event:
    value = PolicyObject(Meta(name=name, namespace=namespace, creation_timestamp=created), dict(spec))
    return event(kind, namespace, name, value, api_version=api_version)


def target(
    namespace: str,
    name: str,
    *,
    destination: str,
    sources: Sequence[tuple[str, str]],
    rules: Sequence[tuple[str, str, Sequence[str]]],
    subjects: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Event:
    """A TrafficTarget; sources are (namespace, account), rules are (kind, name, matches), `subjects` as written."""
    written = [
        {"kind": kind, "name": name} | ({"matches": list(names)} if names else {}) for kind, name, names in rules
    ]
    body = {
        "destination": {"kind": "ServiceAccount", "name": destination, "namespace": namespace},
        "sources": [{"kind": "ServiceAccount", "name": who, "namespace": where} for where, who in sources],
        "rules": written,
        **spec,
        **(subjects or {}),
    }
    return policy("TrafficTarget", namespace, name, body, api_version=ACCESS, created="2026-01-01T00:00:00Z")


def route_group(namespace: str, name: str, *matches: Mapping[str, Any]) -> Event:
    spec = {"matches": list(matches)}
    return policy("HTTPRouteGroup", namespace, name, spec, api_version=SPECS, created="2026-01-01T00:00:00Z")


def binding(namespace: str, name: str, **schemes: Any) -> Event:
    """An IdentityBinding."""
    api_version = "access.smi-spec.io/v1alpha4"
    spec = {"schemes": schemes}
    return policy("IdentityBinding", namespace, name, spec, api_version=api_version, created="2026-01-01T00:00:00Z")


def tcp_route(namespace: str, name: str, *ports: int) -> Event:
    spec = {"matches": {"ports": list(ports)}}
    return policy("TCPRoute", namespace, name, spec, api_version=SPECS, created="2026-01-01T00:00:00Z")


def split(
    namespace: str,
    name: str,
    *,
    root: str,
    backends: Mapping[str, Any],
    created: str = "2026-01-01T00:00:00Z",
    api_version: str = SPLIT,
    matches: Sequence[str] = (),
) -> Event:
    spec: dict[str, Any] = {
        "service": root,
        "backends": [{"service": backend, "weight": weight} for backend, weight in backends.items()],
    }
    if matches:
        spec["matches"] = [{"kind": "HTTPRouteGroup", "name": group} for group in matches]
    return policy("TrafficSplit", namespace, name, spec, api_version=api_version, created=created)


def mesh_config(*, permissive: bool = False, egress: bool = False, **traffic: Any) -> Event:
    spec = {"traffic": {"enablePermissiveTrafficPolicyMode": permissive, "enableEgress": egress, **traffic}}
    return policy(
        "MeshConfig",
        "meshlog-system",
        "osm-mesh-config",
        spec,
        api_version="config.openservicemesh.io/v1alpha2",
        created="2026-01-01T00:00:00Z",
    )


def bookstore() -> list[Event]:
    """A small mesh: a buyer and a thief, a store in two versions behind one root, and a database over TCP."""
    return [
        namespace("buy"),
        namespace("store"),
        namespace("outside", mesh=None),
        pod("buy", "buyer-0", account="buyer", ip="10.244.1.1", labels={"app": "buyer"}),
        pod("buy", "thief-0", account="thief", ip="10.244.1.2", labels={"app": "thief"}),
        pod("store", "v1-0", account="store-v1", ip="10.244.2.1", labels={"app": "store", "version": "v1"}),
        pod("store", "v2-0", account="store-v2", ip="10.244.2.2", labels={"app": "store", "version": "v2"}),
        pod("store", "db-0", account="db", ip="10.244.2.3", labels={"app": "db"}),
        pod("outside", "plain-0", account="default", ip="10.244.3.1", sidecar=False),
        service("store", "store", ip="10.96.1.1"),
        service("store", "store-v1", ip="10.96.1.2", selector={"app": "store", "version": "v1"}),
        service("store", "store-v2", ip="10.96.1.3", selector={"app": "store", "version": "v2"}),
        service("store", "db", ip="10.96.1.4", ports=[ServicePort(port=5432, name="tcp-db")]),
        slices("store", "store", {"v1-0": "10.244.2.1", "v2-0": "10.244.2.2"}),
        slices("store", "store-v1", {"v1-0": "10.244.2.1"}),
        slices("store", "store-v2", {"v2-0": "10.244.2.2"}),
        slices("store", "db", {"db-0": "10.244.2.3"}, ports={"tcp-db": 5432}),
        route_group(
            "store",
            "routes",
            {"name": "browse", "pathRegex": "/books", "methods": ["GET"]},
            {"name": "buy", "pathRegex": "/buy.*", "methods": ["GET", "POST"], "headers": {"client": "buyer.*"}},
        ),
        tcp_route("store", "db", 5432),
        target(
            "store",
            "buyer-v1",
            destination="store-v1",
            sources=[("buy", "buyer")],
            rules=[("HTTPRouteGroup", "routes", ["browse", "buy"])],
        ),
        target(
            "store",
            "buyer-v2",
            destination="store-v2",
            sources=[("buy", "buyer")],
            rules=[("HTTPRouteGroup", "routes", ["browse", "buy"])],
        ),
        target(
            "store",
            "thief-v1",
            destination="store-v1",
            sources=[("buy", "thief")],
            rules=[("HTTPRouteGroup", "routes", ["browse"])],
        ),
        target(
            "store",
            "stores-db",
            destination="db",
            sources=[("store", "store-v1"), ("store", "store-v2")],
            rules=[("TCPRoute", "db", [])],
        ),
        split("store", "canary", root="store", backends={"store-v1": 90, "store-v2": 10}),
    ]
