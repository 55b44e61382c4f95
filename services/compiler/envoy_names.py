"""How the compiler names things inside a cluster, and what Envoy sees of it.

Names that Envoy sees are stable: they contain service and port, never proxy, class or version.
"""

from __future__ import annotations

from shared.names import DENIED_CLUSTER
from shared.policy.object_name import ObjectName

BLACKHOLE = "blackhole"
"""Cluster without endpoints: connections to it are closed at once."""
DENIED = DENIED_CLUSTER
"""Where calls go that no policy lets pass: a cluster of the proxy's own bootstrap, which answers HTTP with 403 and
closes all else. A proxy that was injected without it closes at once."""
PASSTHROUGH = "passthrough"
"""Cluster that goes where the application wanted to, outside the mesh."""
OUTBOUND_LISTENER = "outbound"
INBOUND_LISTENER = "inbound"
MESH_PROTOCOL = "meshlog"
"""ALPN name that mesh clients offer and inbound chains match. Servers do not select it, so that HTTP/2 is still
detected by its preface."""


def outbound(service: ObjectName, port: int) -> str:
    """Cluster, and route configuration, of one port of a service."""
    return f"outbound|{service}|{port}"


def direct(service: ObjectName, port: int) -> str:
    """Cluster that reaches exactly the pod that the client addressed, of a headless service."""
    return f"direct|{service}|{port}"


def local(port: int) -> str:
    """Cluster of the application behind the proxy."""
    return f"local|{port}"


def inbound(port: int) -> str:
    """Filter chain and route configuration of one port of the application."""
    return f"inbound|{port}"
