"""IP addresses as they may stand in a proxy's configuration: in one spelling, and none that means something else.

Two spellings of one address are two texts to us and one match to Envoy, which then refuses the whole listener. An
address that every machine has (loopback), that only a link has (169.254.169.254, where clouds keep credentials) or
that is an IPv4 address in disguise belongs to no pod and no Service.
"""

from __future__ import annotations

import ipaddress

_RESERVED_IPV6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "::/96",  # unspecified, and IPv4 addresses as they were embedded once
        "::ffff:0:0/96",  # IPv4-mapped: the kernel connects to the IPv4 address
        "64:ff9b::/96",  # NAT64: a gateway connects to the IPv4 address
        "2002::/16",  # 6to4: the same
        "fe80::/10",  # link-local
        "ff00::/8",  # multicast
    )
)


def canonical(text: str) -> str | None:
    """The one spelling of an address; `None` for a text that is none, or that only one machine understands."""
    try:
        address = ipaddress.IPv6Address(text) if ":" in text else ipaddress.IPv4Address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return None
    return str(address)


def reserved(text: str, *, loopback: bool = True) -> bool:
    """Whether an address can be no pod's and no Service's. `loopback`: whether those of loopback count as such.

    Raises `ValueError` for a text that is no address.
    """
    if ":" in text:
        address = ipaddress.IPv6Address(text)
        return loopback if address.is_loopback else any(address in network for network in _RESERVED_IPV6)
    packed = ipaddress.IPv4Address(text).packed
    if packed[0] == 127:
        return loopback
    # This host, link-local, multicast, broadcast.
    return packed[0] == 0 or packed[:2] == b"\xa9\xfe" or 224 <= packed[0] < 240 or packed == b"\xff\xff\xff\xff"
