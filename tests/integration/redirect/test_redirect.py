"""The sidecar's redirect with real connections: what goes to the proxy, and what does not."""

from __future__ import annotations

import pytest

from tests.integration.devcluster_node.node import Node, Pod
from tests.integration.devcluster_node.programs import get

pytestmark = pytest.mark.devcluster
_MARK = 0x4D
_INITS = _MAY_MARK = ("NET_ADMIN",)
"""What the injector gives the init container and, if a mark identifies its packets, the proxy; nothing else has it."""
_INIT = "import sys; from services.injector.sidecar_init import main; sys.exit(main(sys.argv[1:]))"

_PROXY = """
import socket, struct, threading
def serve(port, name):
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    ready.release()
    while True:
        connection, (peer, *_) = server.accept()
        level, number, size = (0, 80, 16) if peer.startswith("::ffff:") else (41, 80, 28)
        try:
            original = connection.getsockopt(level, number, size)
        except OSError:  # a pod without a redirect tracks no connections
            address, port_was = connection.getsockname()[:2]
            connection.sendall(f"{name} {address.removeprefix('::ffff:')} {port_was}".encode())
            connection.close()
            continue
        port_was = struct.unpack(">H", original[2:4])[0]
        if size == 16:
            address = socket.inet_ntop(socket.AF_INET, original[4:8])
        else:
            address = socket.inet_ntop(socket.AF_INET6, original[8:24])
        connection.sendall(f"{name} {address} {port_was}".encode())
        connection.close()
ready = threading.Semaphore(0)
ports = {15001: "outbound", 15003: "inbound", 15902: "probe", 80: "app", 22: "app"}
for port, name in ports.items():
    threading.Thread(target=serve, args=(port, name)).start()
for _ in ports:
    ready.acquire()
print("listening")
"""
"""Stands for Envoy (15001, 15003, 15902) and the app (80, 22): prints which took a connection, and its destination."""


def _as_proxy(address: str, port: int) -> str:
    """`get`, with every socket marked as the proxy's."""
    return f"""
import socket
with socket.socket(socket.AF_INET6 if ":" in {address!r} else socket.AF_INET) as connection:
    connection.setsockopt(socket.SOL_SOCKET, 36, {_MARK})
    connection.settimeout(5)
    try:
        connection.connect(({address!r}, {port}))
        print(connection.recv(100).decode())
    except OSError as error:
        print(type(error).__name__)
"""


def _meshed(node: Node, *options: str) -> Pod:
    pod = node.pod("meshed")
    for _ in range(2):  # a container that runs twice changes nothing
        code, output = pod.run("python", "-c", _INIT, "--proxy-mark", str(_MARK), *options, capabilities=_INITS)
        assert code == 0, output
    pod.serve(_PROXY)
    return pod


def test_connections_of_the_pod_go_to_the_proxy_with_their_destination(node: Node) -> None:
    pod = _meshed(node)
    assert pod.python(get("10.96.5.5", 1234)) == "outbound 10.96.5.5 1234"
    assert pod.python(get("192.0.2.1", 443)) == "outbound 192.0.2.1 443"


def test_connections_to_the_pod_go_to_the_proxy_with_their_destination(node: Node) -> None:
    pod, client = _meshed(node), node.pod("client")
    assert client.python(get(pod.ip, 80)) == f"inbound {pod.ip} 80"
    assert client.python(get(pod.ip, 4321)) == f"inbound {pod.ip} 4321"


def test_probe_listeners_are_reached_directly(node: Node) -> None:
    pod, client = _meshed(node), node.pod("client")
    assert client.python(get(pod.ip, 15902)) == f"probe {pod.ip} 15902"


def test_the_proxys_own_connections_pass(node: Node) -> None:
    pod, other = _meshed(node), node.pod("other")
    other.serve(_PROXY)
    assert pod.python(_as_proxy(other.ip, 80), capabilities=_MAY_MARK) == f"app {other.ip} 80"
    assert pod.python(_as_proxy("127.0.0.1", 80), capabilities=_MAY_MARK) == "app 127.0.0.1 80"


def test_within_the_pod_an_app_is_direct_and_the_proxy_comes_in_by_the_front_door(node: Node) -> None:
    pod = _meshed(node)
    assert pod.python(get("127.0.0.1", 80)) == "app 127.0.0.1 80"
    assert pod.python(get("::1", 80)) == "app ::1 80"
    assert pod.python(get(pod.ip, 80)) == f"app {pod.ip} 80"
    assert pod.python(_as_proxy(pod.ip, 80), capabilities=_MAY_MARK) == f"inbound {pod.ip} 80"


def test_what_is_excluded_is_direct(node: Node) -> None:
    other, third, client = node.pod("other"), node.pod("third"), node.pod("client")
    other.serve(_PROXY)
    third.serve(_PROXY)
    pod = _meshed(
        node,
        "--exclude-inbound-ports", "22",
        "--exclude-outbound-ports", "22",
        "--exclude-outbound-cidrs", f"{other.ip}/32,fd00:9::/64",
    )  # fmt: skip
    assert client.python(get(pod.ip, 22)) == f"app {pod.ip} 22"
    assert client.python(get(pod.ip, 80)) == f"inbound {pod.ip} 80"
    assert pod.python(get(other.ip, 80)) == f"app {other.ip} 80"
    assert pod.python(get(third.ip, 22)) == f"app {third.ip} 22"
    assert pod.python(get(third.ip, 80)) == f"outbound {third.ip} 80"


def test_with_included_networks_only_these_go_to_the_proxy(node: Node) -> None:
    other = node.pod("other")
    other.serve(_PROXY)
    pod = _meshed(node, "--include-outbound-cidrs", "10.96.0.0/16")
    assert pod.python(get("10.96.5.5", 1234)) == "outbound 10.96.5.5 1234"
    assert pod.python(get(other.ip, 80)) == f"app {other.ip} 80"


def test_an_excluded_interface_is_left_alone(node: Node) -> None:
    client = node.pod("client")
    pod = _meshed(node, "--exclude-interfaces", "eth0")
    assert client.python(get(pod.ip, 80)) == f"app {pod.ip} 80"


def test_the_proxy_reaches_an_app_that_listens_on_the_pods_address_only(node: Node) -> None:
    pod = node.pod("meshed")
    assert (
        pod.run("python", "-c", _INIT, "--proxy-mark", str(_MARK), "--local-proxy-ip", pod.ip, capabilities=_INITS)[0]
        == 0
    )
    pod.serve(
        f"import socket; server = socket.create_server(({pod.ip!r}, 81))\n"
        "print('listening'); server.accept()[0].sendall(b'app on the address')"
    )
    assert pod.python(_as_proxy("127.0.0.1", 81), capabilities=_MAY_MARK) == "app on the address"


def test_ipv6_goes_the_same_way(node: Node) -> None:
    pod = _meshed(node)
    program = """
import socket, struct
from shared.netfilter.netlink import *
route = NetlinkSocket(ROUTE)
mine = socket.inet_pton(socket.AF_INET6, "fd00::2")
route.ask([
    Message(20, CREATE, struct.pack("=BBBBI", socket.AF_INET6, 128, 2, 0, 2) + attribute(1, mine)),
    Message(24, CREATE, struct.pack("=BBBBBBBBI", socket.AF_INET6, 0, 0, 0, 254, 4, 0, 1, 0) + u32(4, 2)),
])
"""
    assert pod.python(program + get("fd00::99", 443), capabilities=_INITS) == "outbound fd00::99 443"


def test_by_user_the_proxy_passes_and_others_do_not(node: Node) -> None:
    """The devcluster has one user, 0: if the proxy is that user, everything passes; if another, nothing does."""
    other = node.pod("other")
    other.serve(_PROXY)
    for uid, taker in (("0", "app"), ("1500", "outbound")):
        pod = node.pod("meshed")
        assert pod.run("python", "-c", _INIT, "--proxy-uid", uid, capabilities=_INITS)[0] == 0
        pod.serve(_PROXY)
        assert pod.python(get(other.ip, 80)) == f"{taker} {other.ip} 80"
