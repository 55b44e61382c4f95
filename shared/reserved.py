"""Ports of a pod that are its proxy's: no probe, container or Service may have one."""

from __future__ import annotations

PROXY_PORTS = (range(15000, 15011), range(15900, 16000))
"""The proxy's admin, its listeners, and some that are kept for later."""
LISTENING = frozenset({15000, 15001, 15003, 15901, 15902, 15903})
"""Those that a proxy of this build may listen on: admin, outbound, inbound, probes."""


def is_proxys(port: int) -> bool:
    """Whether a port is the proxy's, or kept for it."""
    return any(port in ports for ports in PROXY_PORTS)


def proxys_own() -> str:
    """The ports in words."""
    return " and ".join(f"{ports[0]} to {ports[-1]}" for ports in PROXY_PORTS)
