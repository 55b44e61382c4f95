"""Ports of a pod that are its proxy's: no probe, container or Service may have one."""

from __future__ import annotations

PROXY_PORTS = (range(15000, 15011), range(15900, 16000))
"""The proxy's admin, its listeners, and some that are kept for later."""
ADMIN_PORT = 15000
"""Envoy's admin, on the loopback address."""
OUTBOUND_PORT = 15001
"""Listener that takes connections of the pod."""
INBOUND_PORT = 15003
"""Listener that takes connections to the pod."""
LIVENESS_PORT, READINESS_PORT, STARTUP_PORT = 15901, 15902, 15903
"""Listeners that the kubelet calls, one for each kind of probe."""
PROBE_PORTS = (LIVENESS_PORT, READINESS_PORT, STARTUP_PORT)
LISTENING = frozenset({ADMIN_PORT, OUTBOUND_PORT, INBOUND_PORT, *PROBE_PORTS})
"""Those that a proxy of this build may listen on: admin, outbound, inbound, probes."""


def is_proxys(port: int) -> bool:
    """Whether a port is the proxy's, or kept for it."""
    return any(port in ports for ports in PROXY_PORTS)


def proxys_own() -> str:
    """The ports in words."""
    return " and ".join(f"{ports[0]} to {ports[-1]}" for ports in PROXY_PORTS)
