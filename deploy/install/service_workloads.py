"""Deployments of the services: pods that are no user of the node, that write nowhere, and that spread."""

from __future__ import annotations

from typing import Any

import msgspec

from deploy.install.profile import Manifest, Profile, ResourceRequirements, labels, metadata
from shared.names import HTTP_PORT, WEBHOOK_PORT, XDS_PORT

TOKEN_DIRECTORY = "/var/run/secrets/meshlog"  # noqa: S105 (a path)
NATS_DIRECTORY = "/etc/meshlog/nats"
STATE_DIRECTORY = "/var/lib/meshlog"
KEY_DIRECTORY = "/run/meshlog"
CLIENT_CA_DIRECTORY = "/etc/meshlog/client-ca"
USER = 1337
"""The user of every process of the control plane; not the proxy's, 1500."""
NATS_SECRET = "meshlog-nats-{}"  # noqa: S105 (the name of a Secret)


class ControlPlaneService(msgspec.Struct, frozen=True, kw_only=True):
    """One service of the control plane: what its Kubernetes objects depend on."""

    name: str
    """`ingestor`; its account, Deployment and Service are called `meshlog-ingestor`."""
    port: int = 0
    """Port for clients; 0: it has none."""
    service_port: int = 0
    """Port of its Service; 0: the same as `port`."""
    token: bool = False
    """Whether it proves its identity to the CA (a projected token with the mesh's audience)."""
    state: bool = False
    """Whether it has a directory of its own that outlives its process."""
    kubernetes: bool = False
    """Whether it talks to the Kubernetes API."""
    keeper: bool = False
    """Whether it writes what must never be lost. Others write reports and requests, which are repeated: they serve on
    whatever log there is."""


SERVICES = (
    ControlPlaneService(name="ingestor", kubernetes=True, keeper=True),
    ControlPlaneService(name="compiler", keeper=True),
    ControlPlaneService(name="ca", kubernetes=True, keeper=True),
    ControlPlaneService(name="xds-edge", port=XDS_PORT, token=True, state=True),
    ControlPlaneService(name="injector", port=WEBHOOK_PORT, service_port=443, token=True),
)
"""All of them, in the order in which a person reads them."""


def service_objects(service: ControlPlaneService, profile: Profile) -> list[Manifest]:
    """Account, Deployment and (if it is called) Service."""
    name = f"meshlog-{service.name}"
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(name, profile),
        # Each pod sets whether it needs a token of the API.
        "automountServiceAccountToken": False,
    }
    deployment: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(name, profile),
        "spec": {
            "replicas": profile.replicas(service.name),
            "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": labels(name, profile)}, "spec": _pod(service, profile)},
        },
    }
    if service.name == "xds-edge" and profile.autoscale:
        # The autoscaler's number is not ours to reset.
        del deployment["spec"]["replicas"]
    if not service.port:
        return [account, deployment]
    port = {"name": "main", "port": service.service_port or service.port, "targetPort": service.port}
    return [account, deployment, service_object(name, profile, [port])]


def service_object(name: str, profile: Profile, ports: list[dict[str, Any]]) -> Manifest:
    """A Service over the pods of that name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(name, profile),
        "spec": {"selector": {"app.kubernetes.io/name": name}, "ports": ports},
    }


def hardened(container: dict[str, Any], profile: Profile, *, of: str) -> dict[str, Any]:
    """A container without privileges, with a root file system that is read only, and with its resources."""
    made = {
        **container,
        "imagePullPolicy": profile.pull_policy,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        },
    }
    needs = profile.resources.get(of)
    return {**made, "resources": _resources(needs)} if needs else made


def pod_of(name: str, profile: Profile) -> dict[str, Any]:
    """What pods of every workload of ours have in common."""
    pod: dict[str, Any] = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    }
    if profile.pull_secret:
        pod["imagePullSecrets"] = [{"name": profile.pull_secret}]
    if profile.priority_class:
        pod["priorityClassName"] = profile.priority_class
    if profile.spread:
        pod["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": name}},
            }
            for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ]
    return pod


def _resources(needs: ResourceRequirements) -> dict[str, Any]:
    return {"requests": {"cpu": needs.cpu, "memory": needs.memory}, "limits": {"memory": needs.limit}}


def _pod(service: ControlPlaneService, profile: Profile) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 (the pod's own)
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]
    if service.token:
        source = {"serviceAccountToken": {"audience": "meshlog", "expirationSeconds": 3600, "path": "token"}}
        volumes.append({"name": "mesh-token", "projected": {"sources": [source]}})
        mounts.append({"name": "mesh-token", "mountPath": TOKEN_DIRECTORY, "readOnly": True})
    if service.state:
        volumes.append({"name": "state", "emptyDir": {}})
        mounts.append({"name": "state", "mountPath": STATE_DIRECTORY})
        # Its own key outlives the process, as the state does, but is on no disk.
        volumes.append({"name": "key", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
        mounts.append({"name": "key", "mountPath": KEY_DIRECTORY})
    if service.name == "injector" and profile.webhook_client_ca:
        volumes.append({"name": "client-ca", "configMap": {"name": profile.webhook_client_ca}})
        mounts.append({"name": "client-ca", "mountPath": CLIENT_CA_DIRECTORY, "readOnly": True})
    if profile.nats_secured:
        volumes.append({"name": "nats", "secret": {"secretName": NATS_SECRET.format(service.name)}})
        mounts.append({"name": "nats", "mountPath": NATS_DIRECTORY, "readOnly": True})
    ports = [{"name": "http", "containerPort": HTTP_PORT}]
    if service.port:
        ports.append({"name": "main", "containerPort": service.port})
    container = {
        "name": service.name,
        "image": profile.image_of(service.name),
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
    name = f"meshlog-{service.name}"
    return {
        **pod_of(name, profile),
        "serviceAccountName": name,
        "automountServiceAccountToken": service.kubernetes,
        "terminationGracePeriodSeconds": 10,
        "containers": [hardened(container, profile, of=service.name)],
        "volumes": volumes,
    }


def _environment(service: ControlPlaneService, profile: Profile) -> list[dict[str, Any]]:
    values = {
        "MESHLOG_CLUSTER": profile.cluster,
        "MESHLOG_HTTP_HOST": "0.0.0.0",  # noqa: S104 (the pod's own network)
        "MESHLOG_HTTP_PORT": str(HTTP_PORT),
        "MESHLOG_LOG_LEVEL": profile.log_level,
        "MESHLOG_MESH_NAME": profile.mesh_name,
        "MESHLOG_NAMESPACE": profile.namespace,
        "MESHLOG_NATS_URL": profile.log_servers,
        "MESHLOG_REPLICAS": str(profile.copies),
        "MESHLOG_TRUST_DOMAIN": profile.trust_domain,
    }
    if service.keeper:
        values["MESHLOG_DURABLE"] = str(profile.durable).lower()
    if profile.nats_secured:
        values["MESHLOG_NATS_USER"] = service.name
        values["MESHLOG_NATS_PASSWORD_FILE"] = f"{NATS_DIRECTORY}/password"
        values["MESHLOG_NATS_CA_FILE"] = f"{NATS_DIRECTORY}/ca.crt"
        if profile.nats_accounts or not profile.nats_url:
            values["MESHLOG_NATS_ACCOUNTS"] = "true"
    if service.state:
        values["MESHLOG_STATE_DIR"] = STATE_DIRECTORY
        values["MESHLOG_KEY_DIR"] = KEY_DIRECTORY
    if service.token:
        values["MESHLOG_TOKEN_FILE"] = f"{TOKEN_DIRECTORY}/token"
    if service.name == "ca":
        values["MESHLOG_PROVIDER"] = profile.ca_provider
        values["MESHLOG_CLUSTER_TRUST_BUNDLE"] = profile.cluster_trust_bundle
        values["MESHLOG_DISTRIBUTION_SETTLE"] = str(profile.distribution_settle)
    if service.name == "injector":
        values["MESHLOG_INIT_IMAGE"] = profile.image_of("injector")
        values["MESHLOG_NATIVE_SIDECARS"] = str(profile.native_sidecars).lower()
        values["MESHLOG_PULL_POLICY"] = profile.pull_policy
        values["MESHLOG_PULL_SECRET"] = profile.pull_secret
        values["MESHLOG_PROXY_MARK"] = str(profile.proxy_mark)
        values["MESHLOG_CLIENT_NETWORKS"] = profile.webhook_networks
        values["MESHLOG_CLIENT_NAMES"] = profile.webhook_client_name
        values["MESHLOG_CLIENT_CA_FILE"] = f"{CLIENT_CA_DIRECTORY}/ca.crt" if profile.webhook_client_ca else ""
    return [
        {"name": "MESHLOG_INSTANCE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        *({"name": name, "value": value} for name, value in sorted(values.items())),
    ]
