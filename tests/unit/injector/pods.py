"""Pods, namespaces and an installation for the injector's tests: valid ones, of which each test changes one thing."""

from __future__ import annotations

import copy
from typing import Any

from services.injector.core.configuration import Installation
from services.injector.core.decision import NamespaceMeta
from shared.projected_objects import ANNOTATION_INJECTION, LABEL_MONITORED_BY

INSTALLATION = Installation(
    build="0.1.0",
    envoy_image="envoy:1",
    init_image="meshlog:1",
    edge_host="meshlog-xds-edge.meshlog-system.svc.cluster.local",
)

MEMBER = NamespaceMeta(
    name="shop", labels={LABEL_MONITORED_BY: "meshlog"}, annotations={ANNOTATION_INJECTION: "enabled"}
)

_POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "web-", "labels": {"app": "web"}},
    "spec": {
        "serviceAccountName": "web",
        "initContainers": [{"name": "prepare", "image": "busybox"}],
        "containers": [
            {
                "name": "web",
                "image": "web:1",
                "ports": [{"containerPort": 8080, "name": "http"}],
                "readinessProbe": {
                    "httpGet": {
                        "path": "/ready?deep=1",
                        "port": "http",
                        "httpHeaders": [{"name": "Host", "value": "web"}],
                    },
                    "periodSeconds": 3,
                    "timeoutSeconds": 4,
                    "failureThreshold": 7,
                },
                "livenessProbe": {"tcpSocket": {"port": 8080}},
                "startupProbe": {"exec": {"command": ["true"]}},
            }
        ],
        "volumes": [{"name": "own", "emptyDir": {}}],
    },
}


def pod(**annotations: str) -> dict[str, Any]:
    """A pod with two probes that must go through the proxy and one that must not."""
    made = copy.deepcopy(_POD)
    if annotations:
        made["metadata"]["annotations"] = dict(annotations)
    return made
