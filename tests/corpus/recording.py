"""Record the corpus of the newest schema: objects as Kubernetes serves them, through the ingestor's own code.

python -m tests.corpus.recording     # writes events-v<SCHEMA>.jsonl; refuses to write a released one again

`withheld-v<SCHEMA>.jsonl` has each kind in its closed form, as a build writes it that knows such; the first builds of
schema 1 did not, and read them without the figure.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from services.ingestor.core.log_diff import AppliedChange, Change, DeletedChange
from services.ingestor.core.observations import Projected
from services.ingestor.core.projection import project, project_issuer
from services.ingestor.core.records import draft
from shared.records import events
from shared.records.pins import PIN_KIND, PIN_NAME, PINNED_KINDS, pin_of
from shared.records.subjects import Streams

FOLDER = Path(__file__).parent
CLUSTER = "recorded"
_POLICY = "policy.openservicemesh.io/v1alpha1"
_CONFIG = "config.openservicemesh.io/v1alpha2"
_ACCOUNT = {"kind": "ServiceAccount", "name": "web", "namespace": "shop"}
_LABELS = {"app": "web"}

SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "Namespace": ("v1", {}),
    "ServiceAccount": ("v1", {}),
    "Service": (
        "v1",
        {
            "spec": {
                "type": "ClusterIP",
                "clusterIP": "10.96.0.7",
                "clusterIPs": ["10.96.0.7"],
                "selector": _LABELS,
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "appProtocol": "http", "targetPort": "http"}],
            }
        },
    ),
    "EndpointSlice": (
        "discovery.k8s.io/v1",
        {
            "addressType": "IPv4",
            "endpoints": [
                {
                    "addresses": ["10.244.0.9"],
                    "conditions": {"ready": True, "serving": True, "terminating": False},
                    "nodeName": "node-1",
                    "zone": "zone-a",
                    "targetRef": {"kind": "Pod", "name": "web", "namespace": "shop", "uid": "uid-pod"},
                }
            ],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "http"}],
        },
    ),
    "Pod": (
        "v1",
        {
            "spec": {
                "serviceAccountName": "web",
                "containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 8080, "name": "http"}]}],
            },
            "status": {"phase": "Running", "podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}]},
        },
    ),
    "TrafficTarget": (
        "access.smi-spec.io/v1alpha3",
        {
            "spec": {
                "destination": _ACCOUNT,
                "sources": [_ACCOUNT],
                "rules": [{"kind": "HTTPRouteGroup", "name": "web", "matches": ["get"]}],
            }
        },
    ),
    "IdentityBinding": (
        "access.smi-spec.io/v1alpha4",
        {"spec": {"schemes": {"podLabelSelector": {"matchLabels": _LABELS}}}},
    ),
    "HTTPRouteGroup": (
        "specs.smi-spec.io/v1alpha4",
        {"spec": {"matches": [{"name": "get", "pathRegex": "/a.*", "methods": ["GET"], "headers": {"x-a": "1"}}]}},
    ),
    "TCPRoute": ("specs.smi-spec.io/v1alpha4", {"spec": {"matches": {"ports": [5432]}}}),
    "UDPRoute": ("specs.smi-spec.io/v1alpha4", {"spec": {"matches": {"ports": [53]}}}),
    "TrafficSplit": (
        "split.smi-spec.io/v1alpha4",
        {"spec": {"service": "web", "backends": [{"service": "web", "weight": 100}]}},
    ),
    "MeshConfig": (
        _CONFIG,
        {"spec": {"traffic": {"enablePermissiveTrafficPolicyMode": False, "enableEgress": False}}},
    ),
    "MeshRootCertificate": (
        _CONFIG,
        {
            "spec": {
                "trustDomain": "cluster.local",
                "intent": "active",
                "provider": {"tresor": {"ca": {"secretRef": {"name": "ca", "namespace": "meshlog-system"}}}},
            }
        },
    ),
    "Egress": (
        _POLICY,
        {"spec": {"sources": [_ACCOUNT], "hosts": ["example.org"], "ports": [{"number": 443, "protocol": "https"}]}},
    ),
    "IngressBackend": (
        _POLICY,
        {
            "spec": {
                "backends": [{"name": "web", "port": {"number": 8080, "protocol": "http"}}],
                "sources": [{"kind": "Service", "name": "gateway", "namespace": "edge"}],
            }
        },
    ),
    "Retry": (
        _POLICY,
        {
            "spec": {
                "source": _ACCOUNT,
                "destinations": [{"kind": "Service", "name": "web", "namespace": "shop"}],
                "retryPolicy": {"retryOn": "5xx", "numRetries": 2, "perTryTimeout": "1s"},
            }
        },
    ),
    "UpstreamTrafficSetting": (
        _POLICY,
        {"spec": {"host": "web.shop.svc.cluster.local", "connectionSettings": {"tcp": {"maxConnections": 10}}}},
    ),
    "Telemetry": (_POLICY, {"spec": {"selector": _LABELS, "accessLog": {"format": "[%START_TIME%]"}}}),
    "ExtensionService": (_CONFIG, {"spec": {"host": "log.shop.svc.cluster.local", "port": 4317, "protocol": "h2c"}}),
}
"""Kind → the version it is read in, and its object without metadata."""


def _served(kind: str, *, much: int = 0) -> bytes:
    """The object as the API server writes it, with so many bytes in a label."""
    api_version, rest = SPECS[kind]
    labels = {"openservicemesh.io/monitored-by": "meshlog"} if kind == "Namespace" else {**_LABELS}
    if kind == "EndpointSlice":
        labels["kubernetes.io/service-name"] = "web"
    meta: dict[str, Any] = {
        "name": {"Namespace": "shop", "MeshConfig": "osm-mesh-config"}.get(kind, "web"),
        "uid": f"uid-{kind.lower()}",
        "resourceVersion": "1007",
        "labels": {**labels, "much": "y" * much} if much else labels,
        "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
            "meshlog.io/change-set": "release-1/2",
        },
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "kubectl", "operation": "Update", "time": "2026-01-02T00:00:00Z"}],
    }
    if kind == "Pod":
        meta["annotations"]["meshlog.io/sidecar"] = "0.1.0"
    if kind != "Namespace":
        meta["namespace"] = "meshlog-system" if kind in {"MeshConfig", "MeshRootCertificate"} else "shop"
    return json.dumps({"apiVersion": api_version, "kind": kind, "metadata": meta, **rest}).encode()


def _written(change: Change) -> bytes:
    return draft(change, "", cluster=CLUSTER, streams=Streams(), turn="e1").payload


def _gone(item: Projected) -> bytes:
    return _written(
        DeletedChange(
            kind=item.kind, name=item.name, uid=item.uid, resource_version="1008", origin=events.EventOrigin(), basis=1
        )
    )


def recorded() -> Iterator[bytes]:
    """All applied, then the pin of that policy, then all deleted."""
    items = [project(kind, _served(kind), api_version="", source="watch") for kind in SPECS]
    items.append(project_issuer("https://issuer.example", {"keys": [{"kty": "EC", "kid": "one"}]}))
    applied = [_written(AppliedChange(item, 0)) for item in items]
    yield from applied
    past = [
        (sequence, event) for sequence, event in enumerate(map(events.decode, applied), 1) if event.kind in PINNED_KINDS
    ]
    for body in (events.encode_object(pin_of(len(applied), "as it was", past)), None):
        yield events.encode(_pin(body))
    yield from map(_gone, items)


def closed_forms() -> Iterator[bytes]:
    """Each kind, too large for the log."""
    for kind in SPECS:
        yield _written(AppliedChange(project(kind, _served(kind, much=1_200_000), api_version="", source="watch"), 0))
    yield _written(AppliedChange(project_issuer("https://issuer.example", {"keys": [{"kid": "y" * 1_200_000}]}), 0))


def _pin(body: msgspec.Raw | None) -> events.Event:
    return events.Event(
        schema=events.SCHEMA,
        cluster=CLUSTER,
        kind=PIN_KIND,
        namespace="",
        name=PIN_NAME,
        uid="0123456789abcdef",
        resource_version="0123456789abcdef",
        operation=events.DELETED if body is None else events.APPLIED,
        api_version="" if body is None else "meshlog.io/0.1.0",
        object=body,
        origin=events.EventOrigin(source="operator", manager="operator", time="2026-01-03T00:00:00Z"),
    )


if __name__ == "__main__":
    for name, lines in (("events", recorded()), ("withheld", closed_forms())):
        with contextlib.suppress(FileExistsError), (FOLDER / f"{name}-v{events.SCHEMA}.jsonl").open("xb") as file:
            file.writelines(line + b"\n" for line in lines)
    sys.exit(0)
