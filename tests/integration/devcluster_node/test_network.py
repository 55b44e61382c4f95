"""Pods, Services and names, with real namespaces and real packets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.devcluster.runtime import ServiceRoute
from tests.integration.devcluster_node.node import Node
from tests.integration.devcluster_node.programs import KEEP, SERVE, get

pytestmark = pytest.mark.devcluster
_REFUSED = "ConnectionRefusedError at once"
_VIRTUAL = "10.96.3.4"


@pytest.fixture(autouse=True)
def _no_routes_left(node: Node) -> Iterator[None]:
    yield
    node.routes()


def _route(*backends: str) -> ServiceRoute:
    return ServiceRoute(
        cluster_ip=_VIRTUAL, port=8080, protocol="TCP", backends=tuple((address, 80) for address in backends)
    )


def test_pods_reach_each_other_under_their_own_addresses(node: Node) -> None:
    server, client = node.pod("server"), node.pod("client")
    server.serve(SERVE)
    assert client.python(get(server.ip)) == f"server {client.ip}"


def test_a_service_balances_over_its_backends_and_keeps_the_callers_address(node: Node) -> None:
    one, two, client = node.pod("one"), node.pod("two"), node.pod("client")
    one.serve(SERVE)
    two.serve(SERVE)
    node.routes(_route(one.ip, two.ip))
    answers = Counter(client.python(get(_VIRTUAL, 8080, 200)).splitlines())
    assert answers.keys() == {f"one {client.ip}", f"two {client.ip}"}
    # Fair coins: outside of 60..140 once in a hundred million runs.
    assert all(60 <= count <= 140 for count in answers.values())


def test_a_pod_reaches_itself_through_its_service(node: Node) -> None:
    pod = node.pod("alone")
    pod.serve(SERVE)
    node.routes(_route(pod.ip))
    assert pod.python(get(_VIRTUAL, 8080, 3)).splitlines() == ["alone 10.244.0.1"] * 3


def test_the_node_and_host_network_pods_reach_services(node: Node) -> None:
    pod, host = node.pod("server"), node.pod("host", host_network=True)
    pod.serve(SERVE)
    node.routes(_route(pod.ip))
    assert node.call("connect", address=_VIRTUAL, port=8080) == "server 10.244.0.1"
    assert host.python(get(_VIRTUAL, 8080)) == "server 10.244.0.1"


@pytest.mark.parametrize(
    ("address", "port"),
    [(_VIRTUAL, 8080), (_VIRTUAL, 9), ("10.96.77.77", 80), ("10.244.77.77", 80), ("10.96.0.1", 9)],
    ids=["no backends", "no such port", "nobody's virtual address", "nobody's pod", "nothing on the node"],
)
def test_what_is_nobodys_is_refused_at_once(node: Node, address: str, port: int) -> None:
    node.routes(_route())
    assert node.pod("client").python(get(address, port)) == _REFUSED
    assert node.call("connect", address=address, port=port) == "ConnectionRefusedError"


def test_the_outside_is_unreachable_at_once(node: Node) -> None:
    assert node.pod("client").python(get("192.0.2.1")) == "OSError at once"


def test_a_removed_pod_is_refused_at_once_and_its_address_rests(node: Node) -> None:
    gone, client = node.pod("gone"), node.pod("client")
    gone.serve(SERVE)
    node.routes(_route(gone.ip))
    gone.remove()
    assert client.python(get(gone.ip)) == _REFUSED
    assert client.python(get(_VIRTUAL, 8080)) == _REFUSED
    assert node.pod("next").ip != gone.ip


def test_an_established_connection_outlives_every_change_of_routes(node: Node, tmp_path: Path) -> None:
    server, other, client = node.pod("server"), node.pod("other"), node.pod("client")
    server.serve(KEEP)
    other.serve(SERVE)
    node.routes(_route(server.ip))
    go = tmp_path / "go"
    go.mkdir()
    pid, log = client.start(
        "python",
        "-uc",
        f"""
import os, socket, time
connection = socket.create_connection(({_VIRTUAL!r}, 8080), timeout=5)
print("connected")
for turn in range(3):
    while not os.path.exists(f"/go/{{turn}}"):
        time.sleep(0.01)
    connection.sendall(b"still there")
    print(connection.recv(100).decode())
""",
        mounts=[(go, "/go", True)],
    )
    node.call("line", path=str(log))
    for turn, routes in enumerate(([_route(other.ip)], [_route()], [])):
        node.routes(*routes)
        (go / str(turn)).touch()
    assert client.wait(pid) == 0
    assert log.read_text().splitlines() == ["connected", *["still there"] * 3]


def test_names_are_found_from_the_pods_namespace_and_others_fail_at_once(node: Node) -> None:
    node.call("names", names={"web.shop.svc.cluster.local": [_VIRTUAL], "web.other.svc.cluster.local": ["10.96.3.5"]})
    program = """
import socket, time
for name in ("web", "web.other", "web.shop.svc.cluster.local", "nobody", "example.com"):
    begun = time.monotonic()
    try:
        found = sorted({entry[4][0] for entry in socket.getaddrinfo(name, 80)})
    except OSError:
        found = "none"
    print(name, *found if found != "none" else ["none"], time.monotonic() - begun < 1)
"""
    assert node.pod("client", namespace="shop").python(program).splitlines() == [
        f"web {_VIRTUAL} True",
        "web.other 10.96.3.5 True",
        f"web.shop.svc.cluster.local {_VIRTUAL} True",
        "nobody none True",
        "example.com none True",
    ]
