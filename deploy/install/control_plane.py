"""The Kubernetes objects of the control plane: namespaces, accounts, Deployments, Services, the webhook.

`meshlog up` applies them to the devcluster exactly as they would be applied to a cluster; what differs between the
two is in `Profile`. Each service reads its settings from `MESHLOG_*` variables (`shared.settings`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from deploy.nats import NatsConfig, render
from shared.model import LABEL_IGNORE, LABEL_MONITORED_BY

Manifest = dict[str, Any]

LABEL_INJECT_CA = "meshlog.io/inject-ca"
"""The CA writes the trust bundle into webhook configurations that carry this label."""
TOKEN_DIRECTORY = "/var/run/secrets/meshlog"  # noqa: S105 (a path)
HTTP_PORT = 9091
XDS_PORT = 15128
WEBHOOK_PORT = 9090
NATS_PORT = 4222


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What differs from one installation to another."""

    mesh_name: str = "meshlog"
    namespace: str = "meshlog-system"
    cluster: str = "local"
    """Name of the cluster in the log."""
    image: str = "meshlog/meshlog"
    nats_image: str = "nats"
    edges: int = 2
    """Replicas of the xDS edge; every other service runs once."""
    log_level: str = "info"
    nats_data: str = ""
    """Directory of the node that keeps JetStream's files; empty: an emptyDir."""
    proxy_mark: int = 0
    """Mark of the sidecar's own packets; 0: they are known by the proxy's user id."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One service of the control plane, as far as Kubernetes is concerned."""

    name: str
    """`ingestor`; its account, Deployment and Service are called `meshlog-ingestor`."""
    replicas: int = 1
    port: int = 0
    """Port that others call; 0: nobody calls it."""
    service_port: int = 0
    """Port of its Service; 0: the same as `port`."""
    token: bool = False
    """Whether it proves its identity to the CA (a projected token with the mesh's audience)."""
    state: bool = False
    """Whether it has a directory of its own that outlives its process."""
    environment: dict[str, str] = {}


def services(profile: Profile) -> list[Service]:
    """All of them, in the order in which a person reads them."""
    return [
        Service(name="ingestor"),
        Service(name="compiler"),
        Service(name="ca"),
        Service(name="xds-edge", replicas=profile.edges, port=XDS_PORT, token=True, state=True),
        Service(
            name="injector",
            port=WEBHOOK_PORT,
            service_port=443,
            token=True,
            environment={"MESHLOG_PROXY_MARK": str(profile.proxy_mark)} if profile.proxy_mark else {},
        ),
    ]


def control_plane(profile: Profile) -> list[Manifest]:
    """Every object, in an order in which they can be applied."""
    manifests = [_namespace(profile), *_nats(profile)]
    for service in services(profile):
        manifests += _objects(service, profile)
    return [*manifests, webhook(profile)]


def webhook(profile: Profile) -> Manifest:
    """The mutating webhook: fails closed, for pods of member namespaces only."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": f"meshlog-webhook-{profile.mesh_name}", "labels": {LABEL_INJECT_CA: "true"}},
        "webhooks": [
            {
                "name": "inject.meshlog.io",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "timeoutSeconds": 10,
                "clientConfig": {
                    "service": {
                        "name": "meshlog-injector",
                        "namespace": profile.namespace,
                        "path": "/mutate-pod-creation",
                        "port": 443,
                    }
                },
                "namespaceSelector": {
                    "matchExpressions": [
                        {"key": LABEL_MONITORED_BY, "operator": "In", "values": [profile.mesh_name]},
                        {"key": LABEL_IGNORE, "operator": "DoesNotExist"},
                    ]
                },
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
            }
        ],
    }


def _namespace(profile: Profile) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": profile.namespace, "labels": {LABEL_IGNORE: "true"}},
    }


def _meta(name: str, profile: Profile) -> dict[str, Any]:
    return {"name": name, "namespace": profile.namespace, "labels": {"app.kubernetes.io/name": name}}


def _service_object(name: str, profile: Profile, ports: list[dict[str, Any]]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(name, profile),
        "spec": {"selector": {"app.kubernetes.io/name": name}, "ports": ports},
    }


def _deployment(name: str, profile: Profile, *, replicas: int, recreate: bool, pod: dict[str, Any]) -> Manifest:
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "meshlog"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(name, profile),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
            "strategy": {"type": "Recreate"} if recreate else {"type": "RollingUpdate"},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _directory(name: str, path: str) -> dict[str, Any]:
    if path:
        return {"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
    return {"name": name, "emptyDir": {}}


def _nats(profile: Profile) -> list[Manifest]:
    container = {
        "name": "nats",
        "image": profile.nats_image,
        "command": ["nats-server", "--config", "/etc/nats/nats.conf"],
        "ports": [{"name": "client", "containerPort": NATS_PORT}],
        "readinessProbe": {"tcpSocket": {"port": NATS_PORT}, "periodSeconds": 5},
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/nats"},
            {"name": "data", "mountPath": "/data"},
        ],
    }
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 5,
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": "nats-config"}},
            _directory("data", profile.nats_data),
        ],
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _meta("nats-config", profile),
            "data": {"nats.conf": render(NatsConfig(host="0.0.0.0", port=NATS_PORT, store="/data"))},  # noqa: S104
        },
        _deployment("nats", profile, replicas=1, recreate=True, pod=pod),
        _service_object("nats", profile, [{"name": "client", "port": NATS_PORT, "appProtocol": "tcp"}]),
    ]


def _objects(service: Service, profile: Profile) -> list[Manifest]:
    name = f"meshlog-{service.name}"
    account: Manifest = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta(name, profile)}
    deployment = _deployment(
        name, profile, replicas=service.replicas, recreate=False, pod=_pod(service, profile, account=name)
    )
    if not service.port:
        return [account, deployment]
    port = {"name": "main", "port": service.service_port or service.port, "targetPort": service.port}
    return [account, deployment, _service_object(name, profile, [port])]


def _pod(service: Service, profile: Profile, *, account: str) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = []
    volumes: list[dict[str, Any]] = []
    if service.token:
        source = {"serviceAccountToken": {"audience": "meshlog", "expirationSeconds": 3600, "path": "token"}}
        volumes.append({"name": "mesh-token", "projected": {"sources": [source]}})
        mounts.append({"name": "mesh-token", "mountPath": TOKEN_DIRECTORY, "readOnly": True})
    if service.state:
        volumes.append(_directory("state", ""))
        mounts.append({"name": "state", "mountPath": "/var/lib/meshlog"})
    ports = [{"name": "http", "containerPort": HTTP_PORT}]
    if service.port:
        ports.append({"name": "main", "containerPort": service.port})
    container = {
        "name": service.name,
        "image": profile.image,
        "command": ["meshlog", "run", service.name],
        "env": _environment(service, profile),
        "ports": ports,
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": HTTP_PORT}, "periodSeconds": 5},
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": HTTP_PORT},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "volumeMounts": mounts,
    }
    return {
        "serviceAccountName": account,
        # Only these two talk to the Kubernetes API.
        "automountServiceAccountToken": service.name in {"ingestor", "ca"},
        "terminationGracePeriodSeconds": 10,
        "containers": [container],
        "volumes": volumes,
    }


def _environment(service: Service, profile: Profile) -> list[dict[str, Any]]:
    values = {
        "MESHLOG_CLUSTER": profile.cluster,
        "MESHLOG_HTTP_HOST": "0.0.0.0",  # noqa: S104 (the pod's own network)
        "MESHLOG_HTTP_PORT": str(HTTP_PORT),
        "MESHLOG_LOG_LEVEL": profile.log_level,
        "MESHLOG_MESH_NAME": profile.mesh_name,
        "MESHLOG_NAMESPACE": profile.namespace,
        "MESHLOG_NATS_URL": f"nats://nats.{profile.namespace}.svc.cluster.local:{NATS_PORT}",
        **({"MESHLOG_STATE_DIR": "/var/lib/meshlog"} if service.state else {}),
        **({"MESHLOG_TOKEN_FILE": f"{TOKEN_DIRECTORY}/token"} if service.token else {}),
        **service.environment,
    }
    return [
        {"name": "MESHLOG_INSTANCE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        *({"name": name, "value": value} for name, value in sorted(values.items())),
    ]
