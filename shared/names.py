"""Names that several parts of a mesh must agree on, each in one place. Pure.

A name that only one part uses stands there; one that a manifest, a service and a command share stands here.
"""

from __future__ import annotations

DENIED_CLUSTER = "denied"
"""Cluster in the bootstrap of each proxy that answers HTTP with 403 and closes all else: the compiler routes to it."""
