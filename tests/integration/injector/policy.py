"""A policy object that only the compiler, and no schema, can find fault with."""

from __future__ import annotations

from typing import Any


def traffic_target(destination_namespace: str) -> dict[str, Any]:
    """A TrafficTarget in `shop`; it has no effect unless that is its destination's namespace."""
    return {
        "apiVersion": "access.smi-spec.io/v1alpha3",
        "kind": "TrafficTarget",
        "metadata": {"name": "one", "namespace": "shop"},
        "spec": {
            "destination": {"kind": "ServiceAccount", "name": "store", "namespace": destination_namespace},
            "sources": [{"kind": "ServiceAccount", "name": "buyer", "namespace": "shop"}],
            "rules": [{"kind": "TCPRoute", "name": "any"}],
        },
    }
