"""Connects pods to the node: one veth pair per pod, through which all its packets pass.

A pod has one address (/32) and one route, to the node's end of the pair. The neighbours on both ends are static, so
there is no ARP. There is no bridge: pods reach each other only through the node's rules, so a virtual address works
equally from everywhere, including the pod behind it.

Addresses without a pod are routed to `lo`, where the node's rules reject them (`service_routes`). Layouts:
`rtnetlink(7)`. Forwarding is enabled per interface through netlink, because `/proc/sys` may be read-only.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

from shared.netfilter.netlink import CREATE, EXCL, REPLACE, Message, NetlinkSocket, attribute, nested, text, u32

LOOPBACK = 1
"""`lo` is the first interface of every network namespace."""
POD_INTERFACE = 2
"""The index of `eth0` in a pod."""
GATEWAY = "169.254.1.1"
"""Gateway address of every pod; no interface has it."""

_NEW_LINK, _DEL_LINK, _NEW_ADDRESS, _NEW_ROUTE, _NEW_NEIGHBOUR = 16, 17, 20, 24, 28
_UP = 1
_ON_LINK = 4
_MAIN_TABLE, _STATIC, _UNICAST, _PERMANENT = 254, 4, 1, 0x80
_NODE_MAC = bytes.fromhex("eeeeeeeeeeee")


def set_up_node(route: NetlinkSocket, addresses: list[str], unreachable: list[ipaddress.IPv4Network]) -> None:
    """Add the node's addresses to `lo` (the first is its source address), and routes of networks to reject."""
    route.ask([_set_up(LOOPBACK), *(_address(LOOPBACK, address) for address in addresses)])
    route.ask([_route(network, LOOPBACK, source=addresses[0]) for network in unreachable])


def connect_pod(node: NetlinkSocket, pod: NetlinkSocket, pod_namespace: int, name: str, address: str) -> None:
    """Connect a pod to the node; `name` is the node's interface, at most 15 characters."""
    mac = _pod_mac(address)
    node.ask([_new_pair(name, pod_namespace, mac)])
    index = socket.if_nametoindex(name)
    node.ask(
        [
            _set_up(index, forwarding=True),
            _neighbour(index, address, mac),
            _route(ipaddress.IPv4Network(address), index),
        ]
    )
    pod.ask(
        [
            _set_up(LOOPBACK),
            _set_up(POD_INTERFACE),
            _address(POD_INTERFACE, address),
            _neighbour(POD_INTERFACE, GATEWAY, _NODE_MAC),
            _route(ipaddress.IPv4Network("0.0.0.0/0"), POD_INTERFACE, gateway=GATEWAY),
        ]
    )


def disconnect_pod(node: NetlinkSocket, name: str) -> None:
    """Delete the veth pair at once; the rest of the pod's network ends with its last process."""
    node.ask([Message(_DEL_LINK, 0, _link(0) + text(3, name), f"delete link {name}")])


def _pod_mac(address: str) -> bytes:
    return b"\x0a\x58" + ipaddress.IPv4Address(address).packed


def _link(index: int, *, up: bool = False) -> bytes:
    flags = _UP if up else 0
    return struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, index, flags, flags)


def _new_pair(name: str, pod_namespace: int, mac: bytes) -> Message:
    peer = _link(POD_INTERFACE) + text(3, "eth0") + attribute(1, mac) + u32(28, pod_namespace)
    pair = nested(18, text(1, "veth"), nested(2, attribute(1, peer)))
    return Message(_NEW_LINK, CREATE | EXCL, _link(0) + text(3, name) + attribute(1, _NODE_MAC) + pair, f"veth {name}")


def _set_up(index: int, *, forwarding: bool = False) -> Message:
    body = _link(index, up=True)
    if index != LOOPBACK:
        four = nested(socket.AF_INET, nested(1, u32(1, 1))) if forwarding else b""
        # No automatic IPv6 address, and so no router solicitations on idle interfaces.
        body += nested(26, four, nested(socket.AF_INET6, attribute(8, b"\x01")))
    return Message(_NEW_LINK, 0, body, f"set link {index} up")


def _address(index: int, address: str) -> Message:
    packed = ipaddress.IPv4Address(address).packed
    body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, index) + attribute(2, packed) + attribute(1, packed)
    return Message(_NEW_ADDRESS, CREATE | REPLACE, body, f"address {address}")


def _route(network: ipaddress.IPv4Network, index: int, *, gateway: str = "", source: str = "") -> Message:
    scope = 0 if gateway else 253
    flags = _ON_LINK if gateway else 0
    body = struct.pack(
        "=BBBBBBBBI", socket.AF_INET, network.prefixlen, 0, 0, _MAIN_TABLE, _STATIC, scope, _UNICAST, flags
    )
    if network.prefixlen:
        body += attribute(1, network.network_address.packed)
    body += u32(4, index)
    if gateway:
        body += attribute(5, ipaddress.IPv4Address(gateway).packed)
    if source:
        body += attribute(7, ipaddress.IPv4Address(source).packed)
    return Message(_NEW_ROUTE, CREATE | REPLACE, body, f"route {network}")


def _neighbour(index: int, address: str, mac: bytes) -> Message:
    body = struct.pack("=BBHiHBB", socket.AF_INET, 0, 0, index, _PERMANENT, 0, 0)
    body += attribute(1, ipaddress.IPv4Address(address).packed) + attribute(2, mac)
    return Message(_NEW_NEIGHBOUR, CREATE | REPLACE, body, f"neighbour {address}")
