"""NATS as Kubernetes objects: one server for the embedded mesh, or a cluster with claims, TLS and an account a service.

The servers' passwords come from their environment, and that from a Secret which only they mount; a service mounts
only its own. Operators of an external NATS (`nats_url`) provide the same Secrets with its credentials.
"""

from __future__ import annotations

import hashlib
from typing import Any

from deploy.install.profile import SERVICES, Manifest, Profile, labels, metadata
from deploy.install.service_workloads import hardened, pod_of, service_object
from deploy.nats import PEOPLE, ROUTE_PORT, NatsConfig, render, service_users
from shared.names import NATS_PORT
from shared.records.subjects import Streams

MONITORING_PORT = 8222
HEADLESS = "nats-headless"
SERVER_SECRET = "meshlog-nats-server"  # noqa: S105 (the name of a Secret)
"""Certificate, key and CA of the servers, and the passwords of all services."""
TLS_DIRECTORY = "/etc/nats-tls"
_RUN: list[str] = ["nats-server", "--config", "/etc/nats/nats.conf"]
_RUN_WITH_ROOM = f"""trap 'exit 0' TERM
until dd if=/dev/zero of=/data/.room bs=1048576 count=8 2>/dev/null; do
  rm -f /data/.room
  test "$said" || echo 'the disk of /data is full: nats-server starts as soon as there is room' >&2
  said=1
  sleep 1
done
rm -f /data/.room
exec {" ".join(_RUN)}"""
"""On a full disk nats-server ends at once, and the kubelet would wait longer and longer between its starts, up to five
minutes after there is room again."""


def password_variable(service: str) -> str:
    """The variable from which a server knows a service's password, and the key in its Secret."""
    return f"NATS_PASSWORD_{service.upper().replace('-', '_')}"


def log_objects(profile: Profile) -> list[Manifest]:
    """The servers, unless there are external ones."""
    if profile.nats_url:
        return []
    client = {"name": "client", "port": NATS_PORT, "appProtocol": "tcp"}
    made: list[Manifest] = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata("nats-config", profile),
            "data": {"nats.conf": configuration(profile)},
        },
        _alone(profile) if _is_alone(profile) else _cluster(profile),
        service_object("nats", profile, [client]),
    ]
    if not _is_alone(profile):
        # Clients have to reach the servers while they elect a leader, or while one of them is behind.
        made[-1]["spec"]["publishNotReadyAddresses"] = True
        headless = service_object(HEADLESS, profile, [client, {"name": "route", "port": ROUTE_PORT}])
        spec = {"selector": {"app.kubernetes.io/name": "nats"}, "clusterIP": "None", "publishNotReadyAddresses": True}
        headless["spec"] |= spec
        made.append(headless)
    return made


def configuration(profile: Profile) -> str:
    """The servers' configuration, the same for all of them."""
    users = service_users(Streams(), {name: f"${password_variable(name)}" for name in (*SERVICES, *PEOPLE)})
    routes = [
        f"nats-route://nats-{index}.{HEADLESS}.{profile.namespace}.svc.cluster.local:{ROUTE_PORT}"
        for index in range(profile.nats_nodes)
    ]
    return render(
        NatsConfig(
            host="0.0.0.0",  # noqa: S104 (the pod's own network)
            port=NATS_PORT,
            store="/data",
            name="meshlog-nats" if _is_alone(profile) else "$POD_NAME",
            users=users if profile.nats_secured else (),
            tls=TLS_DIRECTORY if profile.nats_secured else "",
            routes=tuple(routes) if profile.nats_nodes > 1 else (),
            monitoring=MONITORING_PORT,
            max_disk=_most_stored(profile.nats_size),
        )
    )


def _most_stored(size: str) -> str:
    """What a server stores at most on a claim of this size: as many decimal units as the claim has binary ones.

    That is 7 % less (of Gi), for the file system and for the servers' own logs. A server that reaches its limit
    refuses what is new; one whose disk is full switches its storage off.
    """
    return size.removesuffix("i") or "4GB"


def _is_alone(profile: Profile) -> bool:
    """One server, one directory, no claim: the embedded mesh's."""
    return profile.nats_nodes == 1 and not profile.nats_size


def _container(
    profile: Profile, *, command: list[str], probe: dict[str, Any], environment: list[dict[str, Any]]
) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [
        {"name": "config", "mountPath": "/etc/nats"},
        {"name": "data", "mountPath": "/data"},
    ]
    if profile.nats_secured:
        mounts.append({"name": "tls", "mountPath": TLS_DIRECTORY, "readOnly": True})
    container = {
        "name": "nats",
        "image": profile.nats_image,
        "command": command,
        "ports": [{"name": "client", "containerPort": NATS_PORT}],
        **probe,
        "volumeMounts": mounts,
        **({"env": environment} if environment else {}),
    }
    return hardened(container, profile, of="nats")


def _passwords(profile: Profile) -> list[dict[str, Any]]:
    """The servers' environment from which their configuration has the passwords of all users."""
    if not profile.nats_secured:
        return []
    return [
        {
            "name": password_variable(name),
            "valueFrom": {"secretKeyRef": {"name": SERVER_SECRET, "key": password_variable(name)}},
        }
        for name in (*SERVICES, *PEOPLE)
    ]


def _volumes(profile: Profile) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [{"name": "config", "configMap": {"name": "nats-config"}}]
    if profile.nats_secured:
        items = [{"key": name, "path": name} for name in ("ca.crt", "tls.crt", "tls.key")]
        volumes.append({"name": "tls", "secret": {"secretName": SERVER_SECRET, "items": items}})
    if profile.nats_data:
        volumes.append({"name": "data", "hostPath": {"path": profile.nats_data, "type": "DirectoryOrCreate"}})
    elif not profile.nats_size:
        volumes.append({"name": "data", "emptyDir": {}})
    return volumes


def _template_metadata(profile: Profile) -> dict[str, Any]:
    """With the configuration's digest: servers read it at their start only, so a new one must start them anew."""
    digest = hashlib.sha256(configuration(profile).encode()).hexdigest()[:16]
    return {"labels": labels("nats", profile), "annotations": {"meshlog.io/configuration": digest}}


def _alone(profile: Profile) -> Manifest:
    pod = {
        **pod_of("nats", profile),
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 5,
        "containers": [
            _container(profile, command=["sh", "-c", _RUN_WITH_ROOM], probe=_lives(1), environment=_passwords(profile))
        ],
        "volumes": _volumes(profile),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata("nats", profile),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app.kubernetes.io/name": "nats"}},
            "strategy": {"type": "Recreate"},
            "template": {"metadata": _template_metadata(profile), "spec": pod},
        },
    }


def _lives(nodes: int) -> dict[str, Any]:
    """When the kubelet starts a server anew: its disk was full, and nothing but a new start helps.

    A stream whose write failed refuses every further one, also when there is room again. A server of a cluster then
    switches its storage off. A single server goes on with that stream broken, and only the whole check shows it; in a
    cluster that check fails in every election too, which a restart would prolong.
    """
    path = "/healthz" if nodes == 1 else "/healthz?js-enabled-only=true"
    asked = {"httpGet": {"path": path, "port": MONITORING_PORT}, "periodSeconds": 2, "timeoutSeconds": 5}
    # A large log takes its time to be read.
    return {
        "startupProbe": {**asked, "failureThreshold": 150},
        "livenessProbe": {**asked, "failureThreshold": 2},
    }


def _cluster(profile: Profile) -> Manifest:
    environment: list[dict[str, Any]] = [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        *_passwords(profile),
    ]
    # Ready once each of its streams has a leader and it has all of them: a rollout, or a drained node, takes the next
    # server no earlier. Clients come all the same (below): those servers that are left may be enough.
    healthy = {"httpGet": {"path": "/healthz", "port": MONITORING_PORT}, "timeoutSeconds": 5}
    probe = {"readinessProbe": {**healthy, "periodSeconds": 5}}
    pod = {
        **pod_of("nats", profile),
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 30,
        "containers": [
            {
                **_container(profile, command=["sh", "-c", _RUN_WITH_ROOM], probe=probe, environment=environment),
                **_lives(profile.nats_nodes),
            }
        ],
        "volumes": _volumes(profile),
    }
    spec: dict[str, Any] = {
        "replicas": profile.nats_nodes,
        "serviceName": HEADLESS,
        # They need each other to become ready: one after the other would wait for ever.
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": {"app.kubernetes.io/name": "nats"}},
        "template": {"metadata": _template_metadata(profile), "spec": pod},
    }
    if profile.nats_size and not profile.nats_data:
        claim: dict[str, Any] = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": profile.nats_size}},
        }
        if profile.nats_class:
            claim["storageClassName"] = profile.nats_class
        spec["volumeClaimTemplates"] = [{"metadata": {"name": "data"}, "spec": claim}]
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata("nats", profile), "spec": spec}
