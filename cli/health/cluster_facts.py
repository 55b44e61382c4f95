"""Reads facts of a control plane from Kubernetes: workloads, the webhook, the CA's bundle, and members' sidecars."""

from __future__ import annotations

from typing import Any

from cli.cluster.namespace_membership import members
from cli.health.facts import ClusterFacts, WorkloadReadiness
from cli.kubernetes.api_client import Api
from shared.meshconfig.spec_problems import problems
from shared.names import MESH_CONFIG, TRUST_BUNDLE, TRUST_BUNDLE_KEY, mutating_webhook
from shared.projected_objects import ANNOTATION_INJECTION

SERVICES = ("ingestor", "compiler", "ca", "xds-edge", "injector")


async def read(api: Api, namespace: str, mesh_name: str) -> ClusterFacts:
    """Read all facts. Raises `ApiRefusedError` if the API does not answer."""
    log = await _log(api, namespace)
    workloads = [await _workload(api, namespace, "deployments", f"meshlog-{name}") for name in SERVICES]
    bare, opened = await _sidecars(api, mesh_name)
    return ClusterFacts(
        namespace=namespace,
        workloads=workloads if log is None else [log, *workloads],
        external_log=log is None,
        webhook=await _webhook(api, mesh_name),
        roots=await _roots(api, namespace),
        mesh_config=await _mesh_config(api, namespace),
        bare=sorted(bare),
        opened=sorted(opened),
    )


async def _log(api: Api, namespace: str) -> WorkloadReadiness | None:
    """The servers of the log; None if the installation has none."""
    for plural in ("statefulsets", "deployments"):
        found = await _workload(api, namespace, plural, "nats")
        if found.installed:
            return found
    return None


async def _workload(api: Api, namespace: str, plural: str, name: str) -> WorkloadReadiness:
    status, one = await api.request("GET", f"/apis/apps/v1/namespaces/{namespace}/{plural}/{name}")
    if status != 200:
        return WorkloadReadiness(name, installed=False)
    wanted, ready = one["spec"].get("replicas", 1), one.get("status", {}).get("readyReplicas", 0)
    if ready >= wanted:
        return WorkloadReadiness(name, wanted=wanted, ready=ready)
    selector = {"labelSelector": f"app.kubernetes.io/name={name}"}
    pods = (await api.get(f"/api/v1/namespaces/{namespace}/pods", params=selector))["items"]
    return WorkloadReadiness(name, wanted=wanted, ready=ready, trouble="; ".join(filter(None, map(_trouble, pods))))


def _trouble(pod: dict[str, Any]) -> str:
    for container in pod.get("status", {}).get("containerStatuses", []):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            return f"{pod['metadata']['name']} waits ({waiting.get('reason', '')} {waiting.get('message', '')})".strip()
        if not container.get("ready"):
            return f"{pod['metadata']['name']} is not ready, restarted {container.get('restartCount', 0)} times"
    return ""


async def _webhook(api: Api, mesh_name: str) -> str:
    """What is wrong with the injector's webhook; empty if nothing is."""
    name = mutating_webhook(mesh_name)
    path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}"
    status, one = await api.request("GET", path)
    if status != 200:
        return f"{name} is not there: new pods get no sidecar"
    if not all(hook["clientConfig"].get("caBundle") for hook in one["webhooks"]):
        return f"{name} has no CA yet: new pods are refused until the CA has written it"
    return ""


async def _roots(api: Api, namespace: str) -> int:
    status, one = await api.request("GET", f"/api/v1/namespaces/{namespace}/configmaps/{TRUST_BUNDLE}")
    return one["data"].get(TRUST_BUNDLE_KEY, "").count("BEGIN CERTIFICATE") if status == 200 else 0


async def _mesh_config(api: Api, namespace: str) -> str:
    """What is wrong with the MeshConfig; empty if nothing is."""
    path = f"/apis/config.openservicemesh.io/v1alpha2/namespaces/{namespace}/meshconfigs/{MESH_CONFIG}"
    status, one = await api.request("GET", path)
    if status != 200:
        return (
            f"{MESH_CONFIG} is not there: the defaults are in force, and what no TrafficTarget allows is denied; "
            "`meshlog upgrade` makes it"
        )
    return "; ".join(sentence for _, sentence in problems(one.get("spec") or {}))


async def _sidecars(api: Api, mesh_name: str) -> tuple[list[str], list[str]]:
    """Pods that should have a sidecar and have none, and pods whose sidecar forwards requests without policy."""
    bare: list[str] = []
    opened: list[str] = []
    for member in await members(api, mesh_name):
        if member["ignored"] == "yes":
            continue
        pods = (await api.get(f"/api/v1/namespaces/{member['namespace']}/pods"))["items"]
        bare += [
            f"{member['namespace']}/{pod['metadata']['name']}"
            for pod in pods
            if _wants_sidecar(pod, member["injection"]) and not _has_sidecar(pod)
        ]
        opened += [f"{member['namespace']}/{pod['metadata']['name']}" for pod in pods if _has_open_probe_ports(pod)]
    return bare, opened


def _wants_sidecar(pod: dict[str, Any], namespace_injection: str) -> bool:
    injection = (pod["metadata"].get("annotations") or {}).get(ANNOTATION_INJECTION, namespace_injection)
    ended = pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}
    return str(injection).lower() in {"enabled", "yes", "true"} and not pod["spec"].get("hostNetwork") and not ended


def _has_sidecar(pod: dict[str, Any]) -> bool:
    return any(one["name"] == "envoy" for one in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]])


def _has_open_probe_ports(pod: dict[str, Any]) -> bool:
    """Whether the proxy's bootstrap is an older build's, which forwarded every path below a probe's path."""
    if pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
        return False
    containers: list[dict[str, Any]] = [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]
    arguments = [each for one in containers if one["name"] == "envoy" for each in one.get("args") or []]
    return any('"prefix":"/meshlog/' in str(each) for each in arguments)
