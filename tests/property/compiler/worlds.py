"""Random meshes as random events: a small universe, so that events meet, contradict and undo each other."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import strategies as st

from shared.projected_objects import ANNOTATION_CALLS, ANNOTATION_PERMISSIVE, Meta, PolicyObject, ServicePort
from shared.records.events import Event
from tests.unit.compiler import objects

NAMESPACES = ("red", "blue")
NAMES = ("one", "two", "three")
PODS = ("p1", "p2", "p3", "p4")


def address(namespace: str, pod: str) -> str:
    """The address that a pod has, if it has none of another's."""
    return f"10.244.{NAMESPACES.index(namespace)}.{PODS.index(pod) + 1}"


def cluster_address(namespace: str, service: str) -> str:
    """The ClusterIP of a Service that claims no other."""
    return f"10.96.{NAMESPACES.index(namespace)}.{NAMES.index(service)}"


labels: st.SearchStrategy[str] = st.sampled_from(("app", "tier"))
namespaces: st.SearchStrategy[str] = st.sampled_from(NAMESPACES)
names: st.SearchStrategy[str] = st.sampled_from(NAMES)
pods: st.SearchStrategy[str] = st.sampled_from(PODS)
ports = st.sampled_from((80, 81, 5432))
weights: st.SearchStrategy[Any] = st.sampled_from((0, 1, 50, "500m", -1))
matches = st.lists(st.sampled_from(("get", "post", "none")), max_size=2, unique=True)


@st.composite
def service_ports(draw: st.DrawFn) -> ServicePort:
    number = draw(ports)
    name = draw(st.sampled_from(("http", "tcp", "grpc", "x")))
    target: int | str = draw(st.sampled_from((0, 8080, "web", 5432)))
    return ServicePort(port=number, name=f"{name}-{number}", target_port=target)


@st.composite
def pod_events(draw: st.DrawFn) -> Event:
    namespace, name = draw(namespaces), draw(pods)
    own = address(namespace, name)
    return objects.pod(
        namespace,
        name,
        account=draw(names),
        ip=draw(st.sampled_from((own, own, own, address("red", "p1"), address("blue", "p2")))),
        created=draw(st.sampled_from(("", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"))),
        labels=draw(st.dictionaries(labels, names)),
        sidecar=draw(st.sampled_from((True, True, True, False))),
        phase=draw(st.sampled_from(("Running", "Running", "Pending", "Failed"))),
        named_ports=draw(st.sampled_from(({}, {"web": 8080}, {"web": 9090}))),
    )


@st.composite
def service_events(draw: st.DrawFn) -> Event:
    name = draw(names)
    namespace = draw(namespaces)
    own = cluster_address(namespace, name)
    return objects.service(
        namespace,
        name,
        ip=draw(st.sampled_from((own, "10.96.9.9", "10.96.9.9", "None", ""))),
        ports=draw(st.lists(service_ports(), max_size=3, unique_by=lambda port: port.port)),
        selector=draw(st.dictionaries(labels, names, max_size=2)),
        created=draw(st.sampled_from(("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"))),
        type=draw(st.sampled_from(("ClusterIP", "ClusterIP", "ExternalName"))),
    )


@st.composite
def slice_events(draw: st.DrawFn) -> Event:
    chosen = draw(st.lists(pods, unique=True))
    namespace = draw(namespaces)
    return objects.slices(
        namespace,
        draw(names),
        {name: address(namespace, name) for name in chosen},
        ports=draw(st.sampled_from(({"": 8080}, {"http-80": 8080, "tcp-5432": 5432}, {"x-80": 8080}))),
        unready=draw(st.lists(pods, unique=True, max_size=2)),
        suffix=draw(st.sampled_from(("a", "b"))),
    )


@st.composite
def target_events(draw: st.DrawFn) -> Event:
    rule = st.tuples(st.sampled_from(("HTTPRouteGroup", "TCPRoute")), names, matches)
    namespace = draw(namespaces)
    subjects: dict[str, Any] = {}
    kind = st.sampled_from(("ServiceAccount", "IdentityBinding"))
    if draw(st.booleans()):
        subjects["destination"] = {"kind": draw(kind), "name": draw(names), "namespace": namespace}
        source = st.fixed_dictionaries({"kind": kind, "name": names, "namespace": namespaces})
        subjects["sources"] = draw(st.lists(source, max_size=3))
    return objects.target(
        namespace,
        draw(names),
        destination=draw(names),
        sources=draw(st.lists(st.tuples(namespaces, names), max_size=3)),
        rules=draw(st.lists(rule, max_size=3)),
        subjects=subjects,
    )


@st.composite
def group_events(draw: st.DrawFn) -> Event:
    match = st.fixed_dictionaries(
        {"name": st.sampled_from(("get", "post", "all"))},
        optional={
            "pathRegex": st.sampled_from(("/a", "/a/.*", "(", "/b[0-9]+", "a{90}b{90}")),
            "methods": st.lists(st.sampled_from(("GET", "POST", "*")), max_size=2),
            "headers": st.dictionaries(st.sampled_from(("host", "X-Team")), st.sampled_from(("a.*", "b"))),
        },
    )
    return objects.route_group(draw(namespaces), draw(names), *draw(st.lists(match, max_size=3)))


@st.composite
def split_events(draw: st.DrawFn) -> Event:
    return objects.split(
        draw(namespaces),
        draw(names),
        root=draw(names),
        backends=draw(st.dictionaries(names, weights, max_size=3)),
        created=draw(st.sampled_from(("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"))),
        matches=draw(st.lists(names, max_size=1)),
    )


@st.composite
def garbage_events(draw: st.DrawFn) -> Event:
    """Objects that say nothing sensible: each is left out alone."""
    kind = draw(st.sampled_from(("TrafficTarget", "HTTPRouteGroup", "TCPRoute", "TrafficSplit", "MeshConfig")))
    json = st.recursive(
        st.none() | st.booleans() | st.integers(-5, 70000) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )
    keys: tuple[str, ...] = ("destination", "sources", "rules", "matches", "service", "backends", "traffic")
    spec: dict[str, Any] = draw(st.dictionaries(st.sampled_from(keys), json, max_size=4))
    namespace = draw(st.sampled_from((*NAMESPACES, "meshlog-system")))
    name = "osm-mesh-config" if kind == "MeshConfig" else draw(names)
    value = PolicyObject(Meta(name=name, namespace=namespace), spec)
    return objects.event(kind, namespace, name, value, api_version="x/v1alpha4")


@st.composite
def namespace_events(draw: st.DrawFn) -> Event:
    annotations: dict[str, str] = {}
    if (word := draw(st.sampled_from((None, None, "true", "false", "perhaps")))) is not None:
        annotations[ANNOTATION_PERMISSIVE] = word
    if draw(st.integers(0, 3)) == 3:
        annotations[ANNOTATION_CALLS] = ",".join(draw(st.lists(namespaces, max_size=1)))
    mesh = draw(st.sampled_from(("meshlog", "meshlog", "other")))
    return objects.namespace(draw(namespaces), mesh=mesh, annotations=annotations)


@st.composite
def binding_events(draw: st.DrawFn) -> Event:
    schemes: dict[str, Any] = {}
    if draw(st.booleans()):
        schemes["serviceAccount"] = draw(names)
    else:
        schemes["podLabelSelector"] = {"matchLabels": {"app": draw(names)}}
    if draw(st.booleans()):
        schemes["spiffeIdentities"] = [f"cluster.local/ns/{draw(namespaces)}/sa/{draw(names)}"]
    return objects.binding(draw(namespaces), draw(names), **schemes)


@st.composite
def config_events(draw: st.DrawFn) -> Event:
    return objects.mesh_config(permissive=draw(st.booleans()), egress=draw(st.booleans()))


@st.composite
def tcp_route_events(draw: st.DrawFn) -> Event:
    return objects.tcp_route(draw(namespaces), draw(names), *draw(st.lists(ports, max_size=2)))


applied = st.one_of(
    namespace_events(),
    pod_events(),
    pod_events(),
    service_events(),
    service_events(),
    slice_events(),
    slice_events(),
    target_events(),
    target_events(),
    group_events(),
    tcp_route_events(),
    split_events(),
    binding_events(),
    config_events(),
    garbage_events(),
)


def standing() -> list[Event]:
    """A mesh in which calls are possible, of the same names as all that happens to it later."""
    found: list[Event] = []
    rules = [("HTTPRouteGroup", "one", ["get"]), ("TCPRoute", "one", [])]
    for namespace in NAMESPACES:
        found.append(objects.namespace(namespace))
        found.append(objects.route_group(namespace, "one", {"name": "get", "pathRegex": "/a", "methods": ["GET"]}))
        found.append(objects.tcp_route(namespace, "one", 5432, 8080))
        found.append(objects.split(namespace, "one", root="one", backends={"one": 1, "two": 3}))
        for name, pod in zip(NAMES, PODS, strict=False):
            ip = address(namespace, pod)
            host = cluster_address(namespace, name)
            own = [ServicePort(port=80, target_port=8080), ServicePort(port=5432, name="tcp-db")]
            found += [
                objects.pod(namespace, pod, account=name, ip=ip, labels={"app": name}),
                objects.service(namespace, name, ip="None" if name == "three" else host, ports=own),
                objects.slices(namespace, name, {pod: ip}, ports={"": 8080, "tcp-db": 5432}, suffix="a"),
                objects.target(
                    namespace,
                    name,
                    destination=name,
                    sources=[(where, who) for where in NAMESPACES for who in NAMES if who != name],
                    rules=rules[: 1 + NAMES.index(name) % 2],
                ),
            ]
    return found


@st.composite
def quarrels(draw: st.DrawFn) -> list[Event]:
    """A pod, or a Service, takes the address of another, and some give it back."""
    namespace, other = draw(namespaces), draw(namespaces)
    created = draw(st.sampled_from(("2026-01-02T00:00:00Z", "2025-01-01T00:00:00Z")))
    if draw(st.booleans()):
        name = draw(pods)
        found = [objects.pod(namespace, name, account="one", ip=address(other, draw(pods)), created=created)]
        back = objects.pod(namespace, name, account="one", ip=address(namespace, name), created=created)
    else:
        name, taken = draw(names), cluster_address(other, draw(names))
        found = [objects.service(namespace, name, ip=taken, created=created)]
        back = objects.service(namespace, name, ip=cluster_address(namespace, name), created=created)
    return [*found, back] if draw(st.booleans()) else found


@st.composite
def histories(draw: st.DrawFn) -> list[list[Event]]:
    """Batches of events: a mesh that stands, mostly, then objects that come, change and go."""
    written: list[Event] = [*(standing() if draw(st.integers(0, 3)) else []), *draw(st.lists(applied, max_size=40))]
    if draw(st.integers(0, 2)) == 2:
        written += draw(quarrels())
    history: list[Event] = []
    alive: dict[tuple[str, str, str], Event] = {}
    for event in written:
        history.append(event)
        alive[event.kind, event.namespace, event.name] = event
        if draw(st.integers(0, 6)) == 6:
            kind, namespace, name = draw(st.sampled_from(sorted(alive)))
            del alive[kind, namespace, name]
            history.append(objects.deleted(kind, namespace, name))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(history) - 1)), max_size=6)))
    bounds = [0, *cuts, len(history)]
    return [history[a:b] for a, b in itertools.pairwise(bounds) if a < b]


def flat(batches: list[list[Event]]) -> list[Event]:
    return [event for batch in batches for event in batch]
