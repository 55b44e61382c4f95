"""Random meshes that a cluster could really hold: slices name the pods that selectors select; policy is anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hypothesis import strategies as st

from shared.projected_objects import (
    ANNOTATION_ESCAPED_SLASHES,
    ANNOTATION_FORWARDERS,
    ANNOTATION_PERMISSIVE,
    ServicePort,
)
from shared.records.events import Event
from tests.oracle.smi import Ask
from tests.unit.compiler import objects

NAMESPACES = ("red", "blue")
ACCOUNTS = ("ann", "bob", "cid")
SERVICES = ("front", "back", "spare")
POD_NAMES = ("p1", "p2", "p3", "p4")
HTTP, ODD, BYTES = 80, 81, 5432
TARGETS = (8080, 9090, BYTES)
"""Ports of pods that those lead to."""
METHODS = ("GET", "POST", "PUT")
PATHS = ("/", "/a", "/a/b", "/b1", "/x/a", "/c?/a")
ODD_PATHS = (
    *("/a/../b1", "/c/%2e%2e/a", "//a//b", "/a/./b1/", "/c/..;x/a", "/a;v=1/b", "/b1;x", "/%61/b", "/c;/../a?x=/../"),
    *("/a%2Fb", "/a/..%2fb1", "/c%5Ca", "/a/%2e%2e%5cb1", "/a\\b", "/a%2F../b1", "/c/.%2F"),
)
"""Paths that can be read in more than one way."""
HEADERS = (
    *(("x-team", "alpha"), ("x-team", "b"), ("x-team", "z"), ("host", "alpha"), ("host", "b"), ("host", "z")),
    *(("x-forwarded-proto", "b"), ("x_forwarded_proto", "b")),
)
TIMES = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")
ROOT = "whole"
"""A Service without pods of its own: only a split leads its callers anywhere."""
SHARED_ADDRESS = "10.96.9.9"
"""ClusterIP that Services of both namespaces claim in a rivalry."""

namespaces: st.SearchStrategy[str] = st.sampled_from(NAMESPACES)
accounts: st.SearchStrategy[str] = st.sampled_from(ACCOUNTS)
services: st.SearchStrategy[str] = st.sampled_from(SERVICES)
routes: st.SearchStrategy[str] = st.sampled_from(("g1", "g2"))
groups = st.lists(st.sampled_from(("one", "two")), max_size=2, unique=True)


class Placed(NamedTuple):
    """A pod as it was placed: what slices are made from."""

    namespace: str
    name: str
    ip: str
    app: str
    tier: str
    ready: bool
    created: str = ""
    deleted: str = ""
    host_network: bool = False
    ended: bool = False

    @property
    def age(self) -> tuple[bool, str]:
        """The greatest has an address that several claim."""
        return not self.deleted, self.created


class Offered(NamedTuple):
    """A service as it was made: where a caller finds it."""

    namespace: str
    name: str
    host: str
    headless: bool
    ports: tuple[tuple[int, int, str], ...]
    """Port, target port, name."""


@st.composite
def namespace_events(draw: st.DrawFn, name: str) -> Event:
    word = draw(st.sampled_from((None, None, "true", "false", "false", "false")))
    mesh = draw(st.sampled_from(("meshlog",) * 7 + ("other",)))
    slashes = draw(st.sampled_from((None, None, None, "reject", "decode", "keep", "kept")))
    forwarders = draw(st.sampled_from((None, None, None, "red/ann, blue/bob", "blue/cid", "red/ann blue/bob")))
    said = {
        ANNOTATION_PERMISSIVE: word,
        ANNOTATION_ESCAPED_SLASHES: slashes,
        ANNOTATION_FORWARDERS: forwarders,
    }
    return objects.namespace(
        name, mesh=mesh, annotations={key: value for key, value in said.items() if value is not None}
    )


@st.composite
def match_specs(draw: st.DrawFn, name: str) -> dict[str, Any]:
    match: dict[str, Any] = {"name": name}
    if draw(st.booleans()):
        match["pathRegex"] = draw(st.sampled_from(("/a", "/a/.*", "/b[0-9]+", "/", ".*b.*")))
    if draw(st.booleans()):
        match["methods"] = draw(st.lists(st.sampled_from(("GET", "POST", "*")), min_size=1, max_size=2))
    if draw(st.integers(0, 3)) == 3:
        match["headers"] = draw(
            st.dictionaries(st.sampled_from(("X-Team", "host", "X-Forwarded-Proto")), st.sampled_from(("a.*", "b")))
        )
    return match


@st.composite
def group_events(draw: st.DrawFn) -> Event:
    specs = [draw(match_specs(name)) for name in draw(st.sampled_from((("one",), ("one", "two"), ())))]
    return objects.route_group(draw(namespaces), draw(routes), *specs)


@st.composite
def tcp_route_events(draw: st.DrawFn) -> Event:
    listed = draw(st.lists(st.sampled_from((8080, 9090, BYTES)), max_size=2, unique=True))
    return objects.tcp_route(draw(namespaces), draw(routes), *listed)


@st.composite
def subjects(draw: st.DrawFn, *, namespace: str | None = None) -> Mapping[str, str]:
    kind = draw(st.sampled_from(("ServiceAccount", "ServiceAccount", "ServiceAccount", "IdentityBinding")))
    return {"kind": kind, "name": draw(accounts), "namespace": namespace or draw(namespaces)}


@st.composite
def target_events(draw: st.DrawFn) -> Event:
    namespace = draw(namespaces)
    elsewhere = draw(st.integers(0, 3)) == 3
    destination = draw(subjects(namespace=None if elsewhere else namespace))
    sources = draw(st.lists(subjects(), min_size=0 if draw(st.integers(0, 9)) == 9 else 1, max_size=4))
    rule = st.tuples(st.sampled_from(("HTTPRouteGroup", "HTTPRouteGroup", "TCPRoute", "UDPRoute")), routes, groups)
    rules = [
        {"kind": kind, "name": name} | ({"matches": matches} if matches and kind == "HTTPRouteGroup" else {})
        for kind, name, matches in draw(st.lists(rule, min_size=0 if draw(st.integers(0, 4)) == 4 else 1, max_size=3))
    ]
    spec = {"destination": destination, "sources": sources, "rules": rules}
    name = draw(st.sampled_from(("t1", "t2", "t3", "t4")))
    return objects.policy("TrafficTarget", namespace, name, spec, api_version=objects.ACCESS, created=TIMES[0])


@st.composite
def binding_events(draw: st.DrawFn, name: str | None = None) -> Event:
    namespace = draw(namespaces)
    schemes: dict[str, Any] = {}
    chosen = draw(st.integers(0, 3))
    if chosen in {0, 3}:
        schemes["serviceAccount"] = draw(accounts)
    if chosen == 1 or draw(st.integers(0, 5)) == 5:
        schemes["podLabelSelector"] = {"matchLabels": {"tier": draw(st.sampled_from(("x", "y")))}}
    if chosen == 2:
        schemes["spiffeIdentities"] = [f"cluster.local/ns/{draw(namespaces)}/sa/{draw(accounts)}"]
    return objects.binding(namespace, name or draw(accounts), **schemes)


@st.composite
def split_events(draw: st.DrawFn) -> Event:
    weights = st.sampled_from((0, 1, 50, 1000, "500m", "2"))
    return objects.split(
        draw(namespaces),
        draw(st.sampled_from(("s1", "s2"))),
        root=draw(services),
        backends=draw(st.dictionaries(services, weights, min_size=1, max_size=3)),
        created=draw(st.sampled_from(TIMES)),
        matches=draw(st.lists(routes, max_size=1)),
    )


@st.composite
def config_events(draw: st.DrawFn) -> Event:
    traffic: dict[str, Any] = {}
    if draw(st.booleans()):
        traffic["escapedSlashes"] = draw(st.sampled_from(("Reject", "Decode", "Keep")))
    if draw(st.booleans()):
        traffic["trustedForwarders"] = draw(st.lists(st.sampled_from(("red/bob", "blue/ann")), max_size=2))
    return objects.mesh_config(permissive=draw(st.integers(0, 4)) == 4, **traffic)


policies = st.one_of(
    target_events(),
    target_events(),
    target_events(),
    group_events(),
    group_events(),
    tcp_route_events(),
    split_events(),
    split_events(),
    binding_events(),
    config_events(),
)


class Mesh(NamedTuple):
    """A random mesh."""

    events: list[Event]
    pods: list[Placed]
    services: list[Offered]

    @property
    def addresses(self) -> dict[str, str]:
        """Address → key of the proxy that is there; of one that several claim, the newest."""
        there: dict[str, str] = {}
        running = [pod for pod in self.pods if not pod.ended]
        for pod in running:
            rivals = [other for other in running if other.ip == pod.ip and other is not pod]
            if not pod.host_network and all(not other.host_network and other.age < pod.age for other in rivals):
                there[pod.ip] = f"{objects.CLUSTER}/{pod.namespace}/{pod.name}"
        return there

    def hosts_of(self, service: Offered) -> list[str]:
        """Where callers find a service: its address, or (headless) pods, also those that are not behind it."""
        if not service.headless:
            return [service.host]
        pods = [pod for pod in self.pods if pod.namespace == service.namespace]
        return [pod.ip for pod in pods if pod.app == service.name] or [pod.ip for pod in pods]


FOREIGN = ("10.244.0.1", "10.244.1.2", "10.96.0.1", "203.0.113.9", "169.254.169.254", "::ffff:10.244.0.1", "nonsense")
"""Addresses that a slice may name for any pod: of other pods, of Services, of nobody, of no kind."""


def _address(namespace: str, index: int) -> str:
    return f"10.244.{NAMESPACES.index(namespace)}.{index + 1}"


@st.composite
def _pods(draw: st.DrawFn, namespace: str, *, contested: bool, rivalry: bool) -> list[tuple[Event, Placed]]:
    found: list[tuple[Event, Placed]] = []
    for index, name in enumerate(POD_NAMES):
        ip, created, deleted, host_network = _address(namespace, index), "", "", False
        if contested:
            if draw(st.integers(0, 3)) == 3:
                ip = _address(draw(namespaces), draw(st.integers(0, len(POD_NAMES) - 1)))
            created = draw(st.sampled_from(TIMES))
            deleted = draw(st.sampled_from(("", "", TIMES[1])))
            host_network = draw(st.integers(0, 7)) == 7
        if rivalry and index == len(POD_NAMES) - 1:  # a pod on its node's network, at the address of the first pod
            ip, host_network = found[0][1].ip, True
        app, tier = draw(services), draw(st.sampled_from(("x", "y")))
        phase = draw(st.sampled_from(("Running",) * 6 + ("Failed",)))
        event = objects.pod(
            namespace,
            name,
            account=draw(accounts),
            ip=ip,
            labels={"app": app, "tier": tier},
            sidecar=draw(st.integers(0, 7)) < 7,
            phase=phase,
            created=created,
            deleted=deleted,
            host_network=host_network,
        )
        ready = draw(st.integers(0, 5)) < 5
        placed = Placed(namespace, name, ip, app, tier, ready, created, deleted, host_network, ended=phase == "Failed")
        found.append((event, placed))
    return found


@st.composite
def _service(
    draw: st.DrawFn, namespace: str, name: str, placed: list[Placed], *, contested: bool, shared: bool = False
) -> tuple[list[Event], Offered]:
    headless = not shared and draw(st.integers(0, 6)) == 6
    tier = draw(st.sampled_from((None, None, "x")))
    selector = {"app": name} | ({"tier": tier} if tier else {})
    ports = [(HTTP, 8080, ""), (BYTES, BYTES, "tcp-db"), (ODD, 9090, "http-odd")]
    ports = draw(st.lists(st.sampled_from(ports), min_size=1, max_size=3, unique=True))
    if headless:  # a client addresses pods themselves, at the pod's port
        ports = [(target, target, label) for _, target, label in ports]
    host = "None" if headless else f"10.96.{NAMESPACES.index(namespace)}.{SERVICES.index(name) + 1}"
    if contested and not headless and draw(st.integers(0, 5)) == 5:
        host = draw(st.sampled_from(("10.96.0.1", "10.96.1.2", "10.244.0.2", "169.254.169.254")))
    if shared:
        host = SHARED_ADDRESS
    chosen = [pod for pod in placed if pod.app == name and tier in {None, pod.tier}]
    said = {pod.name: pod.ip for pod in chosen}
    where, kind = "", "Pod"
    if contested:
        said = {pod: draw(st.sampled_from((ip,) * 7 + FOREIGN)) for pod, ip in said.items()}
        where = draw(st.sampled_from(("",) * 9 + NAMESPACES))
        kind = draw(st.sampled_from(("Pod",) * 9 + ("Node",)))
    events = [
        objects.service(
            namespace,
            name,
            ip=host,
            selector=selector,
            ports=[ServicePort(port=number, target_port=target, name=label) for number, target, label in ports],
            created=TIMES[0] if shared else draw(st.sampled_from(TIMES)),
        ),
        objects.slices(
            namespace,
            name,
            said,
            ports={label: target for _, target, label in ports},
            unready=[pod.name for pod in chosen if not pod.ready],
            pod_namespace=where,
            kind=kind,
        ),
    ]
    return events, Offered(namespace, name, host, headless, tuple(ports))


_OPENING: tuple[list[tuple[str, str, list[str]]], ...] = (
    [("HTTPRouteGroup", "g1", ["one"])],
    [("HTTPRouteGroup", "g1", []), ("HTTPRouteGroup", "g2", ["two"])],
    [("TCPRoute", "g1", [])],
    [("HTTPRouteGroup", "g2", []), ("TCPRoute", "g2", [])],
)
_CLOSED: tuple[list[tuple[str, str, list[str]]], ...] = (
    [("TCPRoute", "missing", [])],
    [("HTTPRouteGroup", "missing", [])],
    [],
)


@st.composite
def _root(draw: st.DrawFn, namespace: str) -> tuple[list[Event], Offered]:
    """A root of a split with no pods behind it: callers know it only because they may call its backends."""
    host = f"10.96.{NAMESPACES.index(namespace)}.100"
    ports = [ServicePort(port=HTTP, target_port=8080), ServicePort(port=BYTES, target_port=BYTES, name="tcp-db")]
    weights = st.sampled_from((1, 50))
    backends = draw(st.dictionaries(services, weights, min_size=1, max_size=3))
    events = [
        objects.service(namespace, ROOT, ip=host, selector={"app": ROOT}, ports=ports, created=TIMES[0]),
        objects.split(namespace, "s0", root=ROOT, backends=backends, created=TIMES[0]),
    ]
    return events, Offered(namespace, ROOT, host, headless=False, ports=((HTTP, 8080, ""), (BYTES, BYTES, "tcp-db")))


def _opened(namespace: str) -> list[Event]:
    """Every account of a namespace is open to every account, on every port: each mistake about addresses then shows."""
    everybody = [(where, account) for where in NAMESPACES for account in ACCOUNTS]
    rules: list[tuple[str, str, list[str]]] = [("TCPRoute", "all", [])]
    return [
        objects.tcp_route(namespace, "all"),
        *(
            objects.target(namespace, f"all-{account}", destination=account, sources=everybody, rules=rules)
            for account in ACCOUNTS
        ),
    ]


@st.composite
def _standing(draw: st.DrawFn, namespace: str) -> list[Event]:
    """Policy by which most calls mean something: nearly every account is opened somehow to some others."""
    found = [
        objects.route_group(namespace, name, draw(match_specs("one")), draw(match_specs("two")))
        for name in ("g1", "g2")
    ]
    ports = draw(st.lists(st.sampled_from((8080, 9090, BYTES)), max_size=2, unique=True))
    found += [objects.tcp_route(namespace, name, *ports) for name in ("g1", "g2")]
    everybody = [(where, who) for where in NAMESPACES for who in ACCOUNTS]
    for account in ACCOUNTS:
        sources = draw(st.lists(st.sampled_from(everybody), min_size=1, max_size=4, unique=True))
        rules = draw(st.sampled_from(_OPENING if draw(st.integers(0, 9)) else _CLOSED))
        bound = draw(st.sampled_from((None, None, "source", "destination")))
        ends: dict[str, Any] = {}
        if bound == "source":
            ends["sources"] = [{"kind": "IdentityBinding", "name": account, "namespace": draw(namespaces)}]
        elif bound == "destination":
            ends["destination"] = {"kind": "IdentityBinding", "name": account}
        found.append(
            objects.target(
                namespace,
                f"open-{account}",
                destination=account,
                sources=sources,
                rules=rules,
                subjects=ends,
            )
        )
        found.append(draw(binding_events(account)))
    # Opens another namespace's account to everybody, if it is taken.
    elsewhere = draw(st.sampled_from([name for name in NAMESPACES if name != namespace]))
    opened = {"kind": "ServiceAccount", "name": draw(accounts), "namespace": elsewhere}
    found.append(
        objects.target(
            namespace,
            "foreign",
            destination=opened["name"],
            sources=everybody,
            rules=[("TCPRoute", "g1", [])],
            subjects={"destination": opened},
        )
    )
    return found


@st.composite
def meshes(draw: st.DrawFn, *, contested: bool = False) -> Mesh:
    """A cluster with workloads, and policy about them. `contested`: some claim addresses that others have.

    A contested mesh is in one of four cases a rivalry: each namespace has a pod at the address of a node, Services of
    both have one ClusterIP and one age, and all calls are allowed, so that only addresses decide.
    """
    events: list[Event] = []
    placed: list[Placed] = []
    offered: list[Offered] = []
    rivalry = contested and draw(st.integers(0, 3)) == 3
    for namespace in NAMESPACES:
        events.append(draw(namespace_events(namespace)))
        found = draw(_pods(namespace, contested=contested, rivalry=rivalry))
        events += [event for event, _ in found]
        own = [pod for _, pod in found]
        placed += own
        for name in SERVICES:
            shared = rivalry and name == SERVICES[0]
            more, service = draw(_service(namespace, name, own, contested=contested, shared=shared))
            events += more
            offered.append(service)
        if draw(st.booleans()):
            more, service = draw(_root(namespace))
            events += more
            offered.append(service)
        events += draw(_standing(namespace))
        events += _opened(namespace) if rivalry else []
    events += draw(st.lists(policies, max_size=8))
    return Mesh(events, placed, offered)


def asks() -> st.SearchStrategy[Ask]:
    """Random requests."""
    headers = st.lists(st.sampled_from(HEADERS), max_size=3).filter(_one_host)
    paths = st.one_of(st.sampled_from(PATHS), st.sampled_from(ODD_PATHS))
    return st.builds(Ask, st.sampled_from(METHODS), paths, headers.map(tuple))


def _one_host(headers: list[tuple[str, str]]) -> bool:
    return sum(name == "host" for name, _ in headers) < 2
