"""A mesh of several namespaces, and one tenant who writes whatever the own namespace takes: valid, crafted, broken.

The tenant knows everything of the others: names, addresses, labels, accounts. Two things it cannot do, because the
cluster does them: choose the address of a pod (a recycled one is of a pod that has ended or was there before), and be
given a ClusterIP that another Service has (here it is, but the Service is the younger one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st

from shared.projected_objects import (
    ANNOTATION_CALLS,
    ANNOTATION_CHANGE_SET,
    ANNOTATION_PERMISSIVE,
    ANNOTATION_PROXYLESS,
    Meta,
    Pod,
    PolicyObject,
    ServicePort,
)
from shared.records.events import Event
from tests.unit.compiler import objects

TENANT = "red"
OTHERS = ("blue", "green")
OUTSIDE = "outside"
ACCOUNTS = ("ann", "bob")
BEFORE, THEN, AFTER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"
"""Others' objects are of `THEN`."""
NODE = "192.168.0.5"
_PODS = ("p1", "p2", "p3")
_SERVICES = ("web", "db", "nodes")

Draw = st.DrawFn


class World(NamedTuple):
    """Events of the others, events of the tenant, and how far the others rely on it."""

    others: list[Event]
    tenant: list[Event]
    trusting: bool
    """Whether others let in whom an IdentityBinding of the tenant means."""


def _pod_ip(namespace: str, index: int) -> str:
    return f"10.244.{(*OTHERS, OUTSIDE, TENANT).index(namespace)}.{index + 1}"


def _cluster_ip(namespace: str, index: int) -> str:
    return f"10.96.{(*OTHERS, OUTSIDE, TENANT).index(namespace)}.{index + 1}"


_POD_IPS = [_pod_ip(namespace, index) for namespace in (*OTHERS, OUTSIDE) for index in range(len(_PODS))]
_CLUSTER_IPS = [_cluster_ip(namespace, index) for namespace in (*OTHERS, OUTSIDE) for index in range(2)]
_NOBODYS = (
    "10.96.9.9",
    "203.0.113.9",
    "169.254.169.254",
    "127.0.0.1",
    "224.0.0.1",
    "::ffff:10.244.0.1",
    "FD00::0:1",
    "fd00::1",
    "10.244.0.01",
    "10.244.0.1/0",
    "0.0.0.0",  # noqa: S104
    "::",
    "nonsense",
    "",
)
_OWN_IPS = [_pod_ip(TENANT, index) for index in range(len(_PODS))]
_ANY_ADDRESS = st.sampled_from((*_POD_IPS, *_CLUSTER_IPS, *_NOBODYS, *_OWN_IPS, *_OWN_IPS, *_OWN_IPS, NODE))
_ALL: dict[str, Any] = {"name": "all", "pathRegex": ".*", "methods": ["*"]}
_PORTS = (80, 5432)
_pod_names: st.SearchStrategy[str] = st.sampled_from((*_PODS, "none"))
_port_names: st.SearchStrategy[str] = st.sampled_from(("", "http", "tcp-x"))
_port_numbers: st.SearchStrategy[int] = st.sampled_from((80, 8080, 5432, 15001, 0, 65536, -1, 2**40))
_roots: st.SearchStrategy[str] = st.sampled_from((*_SERVICES, "com", "web.blue", "db.red.svc.cluster.local"))
_weights: st.SearchStrategy[Any] = st.sampled_from((0, 1, 1000, "500m", 10**6))


def _service_ports() -> list[ServicePort]:
    return [ServicePort(port=80, target_port=8080, name="http"), ServicePort(port=5432, name="tcp-db")]


# The others


@st.composite
def _others_in(draw: Draw, namespace: str, *, trusting: bool) -> list[Event]:
    annotations: dict[str, str] = {}
    if (word := draw(st.sampled_from((None, None, None, "true", "false")))) is not None:
        annotations[ANNOTATION_PERMISSIVE] = word
    if draw(st.integers(0, 3)) == 3:
        annotations[ANNOTATION_CALLS] = draw(st.sampled_from(("", "green", "blue, red", "outside")))
    found = [objects.namespace(namespace, annotations=annotations)]
    apps = {pod: draw(st.sampled_from(_SERVICES)) for pod in _PODS}
    for index, (pod, app) in enumerate(apps.items()):
        account = draw(st.sampled_from(ACCOUNTS))
        labels = {"app": app, "tier": draw(st.sampled_from(("x", "y")))}
        ip = _pod_ip(namespace, index)
        found.append(objects.pod(namespace, pod, account=account, ip=ip, labels=labels, created=THEN))
    for index, service in enumerate(_SERVICES):
        headless = service == "nodes"
        ip = "None" if headless else _cluster_ip(namespace, index)
        ports = [ServicePort(port=8080)] if headless else _service_ports()
        found.append(objects.service(namespace, service, ip=ip, ports=ports, created=THEN))
        said = {pod: _pod_ip(namespace, _PODS.index(pod)) for pod, app in apps.items() if app == service}
        numbers = {"": 8080} if headless else {"http": 8080, "tcp-db": 5432}
        found.append(objects.slices(namespace, service, said, ports=numbers))
    found += [objects.route_group(namespace, "all", _ALL), objects.tcp_route(namespace, "all", *_PORTS, 8080)]
    found.append(objects.binding(namespace, "some", podLabelSelector={"matchLabels": {"tier": "x"}}))
    for account in ACCOUNTS:
        callers = st.tuples(st.sampled_from((*OTHERS, TENANT)), st.sampled_from(ACCOUNTS))
        sources = draw(st.lists(callers, min_size=1, max_size=3, unique=True))
        rules = draw(st.sampled_from(([("HTTPRouteGroup", "all", [])], [("TCPRoute", "all", [])])))
        subjects: dict[str, Any] = {}
        if trusting:
            subjects["sources"] = [{"kind": "IdentityBinding", "name": "some", "namespace": TENANT}]
        found.append(
            objects.target(
                namespace, f"to-{account}", destination=account, sources=sources, rules=rules, subjects=subjects
            )
        )
    if draw(st.booleans()):
        found.append(objects.split(namespace, "spread", root="web", backends={"web": 1, "db": 2}, created=THEN))
    return found


@st.composite
def _others(draw: Draw, *, trusting: bool) -> list[Event]:
    found = [
        objects.mesh_config(permissive=draw(st.integers(0, 2)) == 2, egress=draw(st.booleans())),
        objects.namespace(OUTSIDE, mesh=None),
        objects.namespace(TENANT),
    ]
    for namespace in OTHERS:
        found += draw(_others_in(namespace, trusting=trusting))
    for index, service in enumerate(("web", "db")):
        found.append(objects.service(OUTSIDE, service, ip=_cluster_ip(OUTSIDE, index), created=THEN))
        ip = _pod_ip(OUTSIDE, index)
        found.append(objects.pod(OUTSIDE, _PODS[index], account="x", ip=ip, sidecar=False, created=THEN))
    if draw(st.booleans()):
        node: dict[str, Any] = {"ip": NODE, "host_network": True}
        found.append(objects.pod(OUTSIDE, "agent", account="x", sidecar=False, created=THEN, **node))
    return found


# The tenant


@st.composite
def _tenants_place(draw: Draw, index: int) -> dict[str, Any]:
    """Where a pod of the tenant is, as far as its status says."""
    created = draw(st.sampled_from((BEFORE, AFTER)))
    foreign = draw(st.sampled_from(_POD_IPS))
    sort = draw(st.integers(0, 7))
    if sort == 5:
        return {"ip": NODE, "host_network": True, "created": created}
    if sort == 6:
        return {"ip": foreign, "created": BEFORE, "deleted": draw(st.sampled_from(("", AFTER)))}
    if sort == 7:
        return {"ip": foreign, "created": created, "phase": draw(st.sampled_from(("Succeeded", "Failed")))}
    return {"ip": _pod_ip(TENANT, index), "created": created}


@st.composite
def _tenants_pod(draw: Draw) -> Event:
    name = draw(st.sampled_from(_PODS))
    event = objects.pod(
        TENANT,
        name,
        account=draw(st.sampled_from(ACCOUNTS)),
        labels={"app": draw(st.sampled_from(_SERVICES)), "tier": draw(st.sampled_from(("x", "y")))},
        sidecar=draw(st.integers(0, 4)) < 4,
        named_ports={"web": draw(st.sampled_from((80, 15001, 0)))},
        **draw(_tenants_place(_PODS.index(name))),
    )
    if draw(st.integers(0, 5)) < 5:
        return event
    value = msgspec.json.decode(event.object or b"", type=Pod)
    more = {**value.metadata.annotations, ANNOTATION_PROXYLESS: "true", ANNOTATION_CHANGE_SET: "blue/2"}
    meta = msgspec.structs.replace(value.metadata, annotations=more)
    return objects.event("Pod", TENANT, name, msgspec.structs.replace(value, metadata=meta))


@st.composite
def _tenants_service(draw: Draw) -> Event:
    name = draw(st.sampled_from((*_SERVICES, "com", "svc", "blue")))
    claimed = draw(st.sampled_from(("None", "None", "own", "own", "foreign", "nobody")))
    created = draw(st.sampled_from((BEFORE, THEN, AFTER)))
    ip, more = "None", list[str]()
    if claimed == "own":
        ip = _cluster_ip(TENANT, draw(st.integers(0, 4)))
    elif claimed == "nobody":
        ip = draw(st.sampled_from(_NOBODYS))
    elif claimed == "foreign":
        created = AFTER
        ip = draw(st.sampled_from((*_CLUSTER_IPS, *_POD_IPS, NODE)))
    if draw(st.integers(0, 4)) == 4:
        created = AFTER
        more = draw(st.lists(st.sampled_from((*_CLUSTER_IPS, *_POD_IPS, *_NOBODYS)), max_size=3))
    number = st.sampled_from((80, 443, 8080, 5432, 15001, 15003, 0, 65535, 65536, -1))
    target: st.SearchStrategy[int | str] = st.sampled_from((0, 8080, "web", "", 70000, -1))
    label = st.sampled_from(("", "http", "tcp-x", "grpc", "\ud7ff"))
    port = st.builds(ServicePort, port=number, target_port=target, name=label)
    return objects.service(
        TENANT,
        name,
        ip=ip,
        cluster_ips=more,
        ports=draw(st.lists(port, max_size=4)),
        selector=draw(st.sampled_from(({}, {"app": name}, {"app": "web"}, {"tier": "x"}))),
        created=created,
        type=draw(st.sampled_from(("ClusterIP", "ClusterIP", "ClusterIP", "NodePort", "ExternalName"))),
        external_name=draw(st.sampled_from(("", "web.blue.svc.cluster.local"))),
        publish_not_ready_addresses=draw(st.booleans()),
    )


@st.composite
def _tenants_slice(draw: Draw) -> Event:
    service = draw(st.sampled_from((*_SERVICES, "com", "blue/web", "")))
    said = draw(st.dictionaries(_pod_names, _ANY_ADDRESS, max_size=3))
    return objects.slices(
        TENANT,
        service,
        said,
        ports=draw(st.dictionaries(_port_names, _port_numbers, max_size=3)),
        unready=draw(st.lists(st.sampled_from(_PODS), max_size=1)),
        suffix=draw(st.sampled_from(("a", "b"))),
        pod_namespace=draw(st.sampled_from(("", "", TENANT, *OTHERS))),
        kind=draw(st.sampled_from(("Pod", "Pod", "Pod", "Pod", "Node", ""))),
        family=draw(st.sampled_from(("IPv4", "IPv4", "IPv4", "IPv6", "FQDN"))),
    )


_EVERYBODY = [(where, who) for where in (*OTHERS, TENANT) for who in ACCOUNTS]


@st.composite
def _tenants_target(draw: Draw) -> Event:
    kind = st.sampled_from(("ServiceAccount", "ServiceAccount", "ServiceAccount", "IdentityBinding"))
    where = st.sampled_from((TENANT, TENANT, TENANT, *OTHERS))
    subjects: dict[str, Any] = {
        "destination": {
            "kind": draw(kind),
            "name": draw(st.sampled_from((*ACCOUNTS, "some"))),
            "namespace": draw(where),
        }
    }
    if draw(st.integers(0, 3)) == 3:
        one = st.fixed_dictionaries({"kind": kind, "name": st.sampled_from((*ACCOUNTS, "some")), "namespace": where})
        subjects["sources"] = draw(st.lists(one, max_size=3))
    rule = st.tuples(
        st.sampled_from(("HTTPRouteGroup", "TCPRoute", "UDPRoute")), st.sampled_from(("all", "none")), st.just(())
    )
    return objects.target(
        TENANT,
        draw(st.sampled_from(("t1", "t2", "to-ann"))),
        destination="ann",
        sources=draw(st.lists(st.sampled_from(_EVERYBODY), min_size=1, max_size=6)),
        rules=draw(st.lists(rule, min_size=1, max_size=2)),
        subjects=subjects,
    )


@st.composite
def _tenants_split(draw: Draw) -> Event:
    return objects.split(
        TENANT,
        draw(st.sampled_from(("s1", "s2"))),
        root=draw(_roots),
        backends=draw(st.dictionaries(_roots, _weights, min_size=1, max_size=3)),
        created=draw(st.sampled_from((BEFORE, AFTER))),
        matches=draw(st.lists(st.just("all"), max_size=1)),
    )


@st.composite
def _tenants_binding(draw: Draw) -> Event:
    schemes: dict[str, Any] = {}
    if draw(st.booleans()):
        schemes["serviceAccount"] = draw(st.sampled_from(ACCOUNTS))
    else:
        schemes["podLabelSelector"] = {"matchLabels": {"tier": draw(st.sampled_from(("x", "y")))}}
    if draw(st.booleans()):
        where, who = draw(st.sampled_from(_EVERYBODY))
        schemes["spiffeIdentities"] = [f"cluster.local/ns/{where}/sa/{who}"]
    return objects.binding(TENANT, draw(st.sampled_from((*ACCOUNTS, "some"))), **schemes)


@st.composite
def _tenants_garbage(draw: Draw) -> Event:
    kinds = ("TrafficTarget", "HTTPRouteGroup", "TCPRoute", "TrafficSplit", "IdentityBinding", "UDPRoute")
    kind = draw(st.sampled_from((*kinds, "MeshConfig", "MeshRootCertificate", "Retry", "ServiceAccount")))
    leaf = st.none() | st.booleans() | st.integers(-5, 70000) | st.sampled_from((*OTHERS, *ACCOUNTS, "web", "all"))
    value = st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )
    keys = ("destination", "sources", "rules", "matches", "service", "backends", "traffic", "trustDomain", "schemes")
    spec: dict[str, Any] = draw(st.dictionaries(st.sampled_from(keys), value, max_size=4))
    name = draw(st.sampled_from(("osm-mesh-config", "all", "t1", "s1", "some")))
    return objects.event(
        kind, TENANT, name, PolicyObject(Meta(name=name, namespace=TENANT), spec), api_version="x/v1alpha4"
    )


_WRITES: Sequence[st.SearchStrategy[Event]] = (
    _tenants_pod(),
    _tenants_pod(),
    _tenants_service(),
    _tenants_service(),
    _tenants_slice(),
    _tenants_slice(),
    _tenants_slice(),
    _tenants_target(),
    _tenants_target(),
    _tenants_split(),
    _tenants_binding(),
    _tenants_garbage(),
)


@st.composite
def _standing(draw: Draw) -> list[Event]:
    """What makes the tenant matter to others, so that most of what it writes then could: workloads and open doors."""
    found = [objects.route_group(TENANT, "all", _ALL), objects.tcp_route(TENANT, "all")]
    if draw(st.integers(0, 9)) == 9:
        return found
    for index, pod in enumerate(_PODS):
        labels = {"app": _SERVICES[index], "tier": "x"}
        account = draw(st.sampled_from(ACCOUNTS))
        found.append(
            objects.pod(TENANT, pod, account=account, ip=_pod_ip(TENANT, index), labels=labels, created=BEFORE)
        )
        ip = "None" if _SERVICES[index] == "nodes" else _cluster_ip(TENANT, index)
        found.append(objects.service(TENANT, _SERVICES[index], ip=ip, ports=_service_ports(), created=BEFORE))
        numbers = {"http": 8080, "tcp-db": 5432}
        found.append(objects.slices(TENANT, _SERVICES[index], {pod: _pod_ip(TENANT, index)}, ports=numbers, suffix="a"))
    for account in ACCOUNTS:
        sources = draw(st.lists(st.sampled_from(_EVERYBODY), min_size=2, max_size=6, unique=True))
        kind = draw(st.sampled_from(("HTTPRouteGroup", "TCPRoute")))
        found.append(
            objects.target(TENANT, f"to-{account}", destination=account, sources=sources, rules=[(kind, "all", [])])
        )
    if draw(st.booleans()):
        annotations = {ANNOTATION_PERMISSIVE: draw(st.sampled_from(("true", "false")))}
        found.append(objects.namespace(TENANT, annotations=annotations))
    return found


@st.composite
def worlds(draw: Draw) -> World:
    """Others who stand, and everything that a tenant writes: what it has, then changes and deletions in any order."""
    trusting = draw(st.integers(0, 3)) == 3
    others = draw(_others(trusting=trusting))
    written: list[Event] = []
    alive: dict[tuple[str, str], None] = {}
    for event in [*draw(_standing()), *draw(st.lists(st.one_of(*_WRITES), min_size=3, max_size=20))]:
        written.append(event)
        if event.kind != "Namespace":
            alive[event.kind, event.name] = None
        if alive and draw(st.integers(0, 7)) == 7:
            kind, name = draw(st.sampled_from(sorted(alive)))
            del alive[kind, name]
            written.append(objects.deleted(kind, TENANT, name))
    return World(others, written, trusting)
