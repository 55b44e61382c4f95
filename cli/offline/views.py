"""Prints the configuration of proxies for people and programs: as text, YAML or JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.json_format import MessageToDict

from shared.records.snapshot import CDS, EDS, LDS, RDS, Proxy, Snapshot

_KINDS = {
    CDS: ("clusters", Cluster),
    EDS: ("endpoints", ClusterLoadAssignment),
    LDS: ("listeners", Listener),
    RDS: ("routes", RouteConfiguration),
}


def as_objects(snapshot: Snapshot, workload_class: str) -> dict[str, dict[str, Any]]:
    """All resources of a class: kind → name → message."""
    found: dict[str, dict[str, Any]] = {}
    for type_url, (kind, message) in _KINDS.items():
        held = snapshot.views[workload_class].get(type_url, {})
        found[kind] = {
            name: MessageToDict(
                message.FromString(snapshot.resources[type_url, name, held[name]].body),
                preserving_proto_field_name=True,
            )
            for name in sorted(held)
        }
    return found


def document(snapshot: Snapshot, proxies: list[Proxy]) -> dict[str, Any]:
    """These proxies, and the configuration of each of their classes."""
    classes = sorted({proxy.workload_class for proxy in proxies})
    return {
        "proxies": {f"{proxy.namespace}/{proxy.pod}": proxy.workload_class for proxy in proxies},
        "classes": {name: as_objects(snapshot, name) for name in classes},
        "leftOut": [{"object": str(one.key), "code": one.code, "why": one.sentence} for one in snapshot.quarantine],
    }


def summary(snapshot: Snapshot, proxies: list[Proxy]) -> Iterator[str]:
    """A summary: the number of resources, the proxies that receive them, and the objects that were left out."""
    count = Counter(_KINDS[type_url][0] for type_url, _, _ in snapshot.resources)
    size = sum(len(resource.body) for resource in snapshot.resources.values())
    parts = ", ".join(f"{number} {kind}" for kind, number in sorted(count.items()))
    yield f"{len(proxies)} proxies in {len(snapshot.views)} classes; {parts or 'no resources'} ({size} bytes)"
    for name in sorted({proxy.workload_class for proxy in proxies}):
        pods = sorted(proxy.pod for proxy in proxies if proxy.workload_class == name)
        calls = sorted(snapshot.views[name].get(RDS, {})) + sorted(snapshot.views[name].get(CDS, {}))
        # A headless service has no cluster `outbound|` of its own: callers address its pods.
        reached = [call.split("|", 1) for call in calls]
        callable_ = sorted({rest[0] for kind, *rest in reached if kind in {"outbound", "direct"} and rest})
        shown = ", ".join([*pods[:3], *(["..."] if len(pods) > 3 else [])])
        yield f"  {name}  {len(pods)} {'pod' if len(pods) == 1 else 'pods'} ({shown})"
        yield f"      may call: {', '.join(callable_) or 'nobody'}"
    for one in snapshot.quarantine:
        yield f"  left out: {one.key}: {one.sentence} [{one.code}]"
