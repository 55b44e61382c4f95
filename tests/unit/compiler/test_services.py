"""What fields of a Service and its ports mean, and what is said of those that mean nothing here."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from kubernetes.client import V1ServiceSpec

from services.compiler.derive.services.protocols import PortProtocol, spoken
from services.ingestor.core.projection import project
from shared.projected_objects import Service, ServicePort
from shared.records.events import Event
from tests.unit.compiler import objects
from tests.unit.compiler.test_views import told

LATER = "2026-01-02T00:00:00Z"


def shop(**ports: int) -> list[Event]:
    """A pod of an account that everybody of its namespace may call, with these named ports."""
    return [
        objects.namespace("shop"),
        objects.pod("shop", "db-0", account="db", ip="10.244.3.1", labels={"app": "db"}, named_ports=ports),
        objects.pod("shop", "client-0", account="client", ip="10.244.3.2"),
        objects.route_group("shop", "all", {"name": "all", "pathRegex": "/.*"}),
        objects.target(
            "shop", "open", destination="db", sources=[("shop", "client")], rules=[("HTTPRouteGroup", "all", ())]
        ),
    ]


def offered(name: str, port: ServicePort, *, ip: str, **more: Any) -> list[Event]:
    """A Service of that port, over the pod."""
    slices = objects.slices("shop", name, {"db-0": "10.244.3.1"}, ports={port.name: 3307})
    return [objects.service("shop", name, ip=ip, ports=[port], selector={"app": "db"}, **more), slices]


def said(events: list[Event]) -> dict[str, list[tuple[str, str]]]:
    """Service → code and sentence of each problem."""
    found: dict[str, list[tuple[str, str]]] = {}
    for one in told("shop/client-0", mesh=events).snapshot.quarantine:
        found.setdefault(one.key.name, []).append((one.code, one.sentence))
    return found


def test_a_port_that_is_named_after_a_protocol_or_has_its_number_is_not_taken_for_http() -> None:
    """A server that speaks first would wait for ever behind a sidecar that waits for a request."""
    bytes_by_name = ("mysql", "mongo", "redis-0", "postgres-primary", "amqp", "smtp", "tcp-mysql", "MySQL", "https")
    http_by_name = ("http", "http-metrics", "grpc", "ws", "http2-mysql")
    unsaid = ("", "web", "mysqlish", "api", "redisinsight")
    assert {spoken(ServicePort(port=9000, name=name)) for name in bytes_by_name} == {PortProtocol("tcp", said=True)}
    assert {spoken(ServicePort(port=3306, name=name)) for name in http_by_name} == {PortProtocol("http", said=True)}
    assert {spoken(ServicePort(port=9000, name=name)) for name in unsaid} == {PortProtocol("http", said=False)}
    for number in (25, 3306, 5432, 6379, 27017):
        assert spoken(ServicePort(port=number, name="db")) == PortProtocol("tcp", said=True)
        assert spoken(ServicePort(port=number, app_protocol="http")) == PortProtocol("http", said=True)


@pytest.mark.parametrize(("older", "younger"), [("http", "tcp"), ("tcp", "http")])
@pytest.mark.parametrize("targets", [("db", 3307), (3307, "db"), (3307, 3307), ("db", "db")])
def test_a_service_whose_protocol_an_older_one_decides_is_told_so(
    older: str, younger: str, targets: tuple[int | str, int | str]
) -> None:
    """What counts is the port of the pod, however each of them writes it."""
    first = ServicePort(81, "a", app_protocol=older, target_port=targets[0])
    second = ServicePort(82, "b", app_protocol=younger, target_port=targets[1])
    mesh = [
        *shop(db=3307),
        *offered("first", first, ip="10.96.3.1"),
        *offered("second", second, ip="10.96.3.2", created=LATER),
    ]
    words = {"http": "HTTP", "tcp": "bytes"}
    sentence = (
        f"port 82 is {words[younger]}, but Service shop/first, the older one, leads to the same port 3307 of its pods "
        f"as {words[older]}, which counts for both; write the same appProtocol in both"
    )
    assert said(mesh) == {"second": [("service/protocol", sentence)]}


def test_services_that_agree_or_lead_to_different_ports_are_told_nothing() -> None:
    first, second = ServicePort(81, "a", target_port=3307), ServicePort(82, "b", target_port="db")
    other = ServicePort(83, "c", app_protocol="tcp", target_port=3308)
    mesh = [
        *shop(db=3307),
        *offered("first", first, ip="10.96.3.1"),
        *offered("second", second, ip="10.96.3.2", created=LATER),
        *offered("third", other, ip="10.96.3.3", created=LATER),
    ]
    assert said(mesh) == {}


@pytest.mark.parametrize("affinity", ["None", "ClientIP"])
def test_session_affinity_chooses_the_endpoint_by_the_clients_address(affinity: str) -> None:
    """Requests and bytes alike; nothing is said of it to services that do not want it."""
    wanted = affinity == "ClientIP"
    requests, raw = ServicePort(80, "http", target_port=3307), ServicePort(90, "tcp", target_port=3308)
    open_bytes = objects.target(
        "shop", "bytes", destination="db", sources=[("shop", "client")], rules=[("TCPRoute", "any", ())]
    )
    mesh = [
        *shop(),
        *offered("web", requests, ip="10.96.3.1", session_affinity=affinity),
        *offered("raw", raw, ip="10.96.3.2", session_affinity=affinity),
        open_bytes,
        objects.tcp_route("shop", "any"),
    ]
    found = told("shop/client-0", mesh=mesh)
    for name in ("outbound|shop/web|80", "outbound|shop/raw|90"):
        assert (found.get(Cluster, name).lb_policy == Cluster.LbPolicy.RING_HASH) is wanted, name
    (route,) = found.routes("outbound|shop/web|80")
    assert [one.connection_properties.source_ip for one in route.route.hash_policy] == [True] * wanted
    proxy = TcpProxy()
    assert found.chains("outbound")["outbound|shop/raw|90"].filters[-1].typed_config.Unpack(proxy)
    assert [one.HasField("source_ip") for one in proxy.hash_policy] == [True] * wanted


def test_affinity_of_a_headless_service_means_nothing_and_that_of_a_backend_holds_behind_a_split() -> None:
    port = ServicePort(80, "http", target_port=3307)
    mesh = [
        *shop(),
        *offered("root", port, ip="10.96.3.1"),
        *offered("leaf", port, ip="10.96.3.2", session_affinity="ClientIP"),
        *offered("each", port, ip="None", session_affinity="ClientIP"),
        objects.split("shop", "some", root="root", backends={"leaf": 1, "root": 1}),
    ]
    found = told("shop/client-0", mesh=mesh)
    assert found.get(Cluster, "direct|shop/each|80").lb_policy == Cluster.LbPolicy.CLUSTER_PROVIDED
    assert not any(route.route.hash_policy for route in found.routes("outbound|shop/each|80"))
    assert found.get(Cluster, "outbound|shop/leaf|80").lb_policy == Cluster.LbPolicy.RING_HASH
    assert found.get(Cluster, "outbound|shop/root|80").lb_policy == Cluster.LbPolicy.ROUND_ROBIN
    assert all(route.route.hash_policy for route in found.routes("outbound|shop/root|80"))


def test_calls_that_are_to_stay_on_their_node_are_named_as_what_the_mesh_does_not_do() -> None:
    port = ServicePort(80, "http", target_port=3307)
    mesh = [*shop(), *offered("agent", port, ip="10.96.3.1", internal_traffic_policy="Local")]
    ((code, sentence),) = said(mesh)["agent"]
    assert code == "service/local"
    assert "internalTrafficPolicy: Local" in sentence
    assert said([*shop(), *offered("agent", port, ip="10.96.3.1", internal_traffic_policy="Cluster")]) == {}


@pytest.mark.parametrize("number", [15000, 15001, 15003, 15901, 15902, 15903])
@pytest.mark.parametrize("named", [False, True])
def test_no_service_opens_a_port_where_the_proxy_itself_listens(number: int, *, named: bool) -> None:
    """Its admin would answer whom a target lets in."""
    port = ServicePort(80, "http", target_port="admin" if named else number)
    mesh = [*shop(admin=number), *offered("own", port, ip="10.96.3.1")]
    assert told("shop/db-0", mesh=mesh).chains("inbound").keys() == {"never"}
    sentences = said(mesh).get("own", [])
    assert [code for code, _ in sentences] == ([] if named else ["service/proxy-port"])


_FIELDS: dict[str, list[tuple[Any, str]]] = {
    "internal_traffic_policy": [("Cluster", ""), ("Local", "service/local")],
    "traffic_distribution": [("PreferClose", "service/distribution"), ("PreferSameNode", "service/distribution")],
    "session_affinity": [("None", ""), ("ClientIP", "")],
    "session_affinity_config": [
        ({"clientIP": {"timeoutSeconds": 10800}}, ""),
        ({"clientIP": {}}, ""),
        ({"clientIP": {"timeoutSeconds": 60}}, "service/affinity-timeout"),
    ],
    "type": [("ClusterIP", ""), ("NodePort", ""), ("LoadBalancer", ""), ("ExternalName", "service/external-name")],
}
"""What a Service may ask of those who call it → what is told of it; nothing: it is done."""
_DONE = {"cluster_ip", "cluster_ips", "selector", "ports", "external_name", "publish_not_ready_addresses"}
"""Other tests show it."""
_OUTSIDE = {
    "allocate_load_balancer_node_ports",
    "external_ips",
    "external_traffic_policy",
    "health_check_node_port",
    "ip_families",
    "ip_family_policy",
    "load_balancer_class",
    "load_balancer_ip",
    "load_balancer_source_ranges",
}
"""Calls from outside of the cluster, or what the cluster has made of it by the time that it is read."""


def test_each_field_of_a_service_is_followed_or_has_a_row() -> None:
    """A field that a later Kubernetes brings is looked at by someone."""
    known = set(V1ServiceSpec.attribute_map)
    assert known == {*_FIELDS, *_DONE, *_OUTSIDE}


@pytest.mark.parametrize(("field", "value", "code"), [(f, v, c) for f, rows in _FIELDS.items() for v, c in rows])
def test_what_is_not_followed_is_named_at_the_service(field: str, value: Any, code: str) -> None:
    """As it comes from the API server: the ingestor keeps what the compiler has to tell of."""
    name = V1ServiceSpec.attribute_map[field]
    spec: dict[str, Any] = {"clusterIP": "10.96.3.1", "selector": {"app": "db"}, "ports": [{"port": 80}], name: value}
    if field == "session_affinity_config":
        spec["sessionAffinity"] = "ClientIP"
    meta = {"name": "asked", "namespace": "shop", "uid": "u", "creationTimestamp": LATER}
    body = json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}).encode()
    kept = project("Service", body, api_version="v1", source="list").body
    found = said([*shop(), objects.event("Service", "shop", "asked", msgspec.json.decode(kept, type=Service))])
    assert [one for one, _ in found.get("asked", [])] == ([code] if code else [])
    if code and field != "type":
        assert name in found["asked"][0][1]
