"""Kubernetes objects for the ingestor's tests: valid ones, of which each test breaks one thing."""

from __future__ import annotations

import json
from typing import Any

from services.ingestor.core.observations import Projected
from services.ingestor.core.projection import project


def pod(name: str = "web-1", **changes: Any) -> dict[str, Any]:
    """A pod as the API server writes it, heartbeat noise included."""
    value: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "resourceVersion": "7",
            "labels": {"app": "web"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "meshlog.io/sidecar": "b1"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [
                {"manager": "kubectl", "operation": "Update", "time": "2026-01-01T00:00:00Z", "fieldsV1": {}},
                {"manager": "kubelet", "time": "2026-01-01T00:00:09Z", "subresource": "status"},
            ],
        },
        "spec": {
            "serviceAccountName": "web",
            "containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 8080, "name": "http"}]}],
        },
        "status": {"phase": "Running", "podIP": "10.244.0.9", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    meta = {key: value for key, value in changes.items() if key in {"uid", "namespace", "labels", "annotations"}}
    value["metadata"] |= meta
    if "rv" in changes:
        value["metadata"]["resourceVersion"] = str(changes["rv"])
    if "ip" in changes:
        value["status"]["podIP"] = changes["ip"]
    return value


def encoded(value: dict[str, Any]) -> bytes:
    """As it comes over the wire."""
    return json.dumps(value).encode()


def projected(name: str = "web-1", **changes: Any) -> Projected:
    """The projection of such a pod."""
    return project("Pod", encoded(pod(name, **changes)), api_version="v1", source="watch")


def listing(items: list[dict[str, Any]], rv: str, continue_token: str = "") -> bytes:
    """A page of a list."""
    metadata = {"resourceVersion": rv, **({"continue": continue_token} if continue_token else {})}
    return json.dumps({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}).encode()
