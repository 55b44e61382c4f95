"""Whether a mesh's control plane is well, as far as Kubernetes can tell: workloads, the webhook, the CA's bundle."""

from __future__ import annotations

from typing import Any

import msgspec

from cli.api import Api
from cli.cluster.membership import members
from shared.membership import MESH_CONFIG
from shared.meshconfig.problems import problems
from shared.model import ANNOTATION_INJECTION

_NAMED = 5
"""Pods that a sentence names."""
_SERVICES = ("ingestor", "compiler", "ca", "xds-edge", "injector")


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    what: str
    fine: bool
    found: str
    """What was seen; for what is not fine, also what to do."""


async def control_plane(api: Api, namespace: str, mesh_name: str) -> list[Check]:
    """Every check, in the order in which a person should repair."""
    checks = [await _workload(api, namespace, "deployments", f"meshlog-{name}") for name in _SERVICES]
    checks.insert(0, await _log(api, namespace))
    checks.append(await _webhook(api, mesh_name))
    checks.append(await _bundle(api, namespace))
    checks.append(await _mesh_config(api, namespace))
    return [*checks, *await _sidecars(api, mesh_name)]


async def _log(api: Api, namespace: str) -> Check:
    for plural in ("statefulsets", "deployments"):
        status, _ = await api.request("GET", f"/apis/apps/v1/namespaces/{namespace}/{plural}/nats")
        if status == 200:
            return await _workload(api, namespace, plural, "nats")
    return Check("the log (nats)", fine=True, found="an external one: look at it where it runs")


async def _workload(api: Api, namespace: str, plural: str, name: str) -> Check:
    status, one = await api.request("GET", f"/apis/apps/v1/namespaces/{namespace}/{plural}/{name}")
    if status != 200:
        return Check(name, fine=False, found=f"is not installed in {namespace}; `meshlog upgrade` brings it back")
    wanted, ready = one["spec"].get("replicas", 1), one.get("status", {}).get("readyReplicas", 0)
    if ready >= wanted:
        return Check(name, fine=True, found=f"{ready} of {wanted} ready")
    selector = {"labelSelector": f"app.kubernetes.io/name={name}"}
    pods = (await api.get(f"/api/v1/namespaces/{namespace}/pods", params=selector))["items"]
    why = "; ".join(filter(None, map(_trouble, pods))) or "no pod says why"
    return Check(name, fine=False, found=f"{ready} of {wanted} ready: {why}")


def _trouble(pod: dict[str, Any]) -> str:
    for container in pod.get("status", {}).get("containerStatuses", []):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            return f"{pod['metadata']['name']} waits ({waiting.get('reason', '')} {waiting.get('message', '')})".strip()
        if not container.get("ready"):
            return f"{pod['metadata']['name']} is not ready, restarted {container.get('restartCount', 0)} times"
    return ""


async def _webhook(api: Api, mesh_name: str) -> Check:
    name = f"meshlog-webhook-{mesh_name}"
    path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}"
    status, one = await api.request("GET", path)
    if status != 200:
        return Check(name, fine=False, found="is not there: new pods get no sidecar; `meshlog upgrade` brings it back")
    if not all(hook["clientConfig"].get("caBundle") for hook in one["webhooks"]):
        return Check(name, fine=False, found="has no CA yet: new pods are refused until the CA has written it")
    return Check(name, fine=True, found="trusts the mesh's CA")


async def _bundle(api: Api, namespace: str) -> Check:
    what = "trust bundle"
    status, one = await api.request("GET", f"/api/v1/namespaces/{namespace}/configmaps/meshlog-trust-bundle")
    if status != 200:
        return Check(what, fine=False, found="the CA has published none; see the log of meshlog-ca")
    roots = one["data"]["bundle.pem"].count("BEGIN CERTIFICATE")
    return Check(what, fine=roots > 0, found=f"{roots} root{'s' * (roots != 1)}")


async def _mesh_config(api: Api, namespace: str) -> Check:
    what = f"MeshConfig {MESH_CONFIG}"
    path = f"/apis/config.openservicemesh.io/v1alpha2/namespaces/{namespace}/meshconfigs/{MESH_CONFIG}"
    status, one = await api.request("GET", path)
    if status != 200:
        found = "is not there: the defaults are in force, and what no TrafficTarget allows is denied; "
        return Check(what, fine=False, found=f"{found}`meshlog upgrade` makes it")
    found = [sentence for _, sentence in problems(one.get("spec") or {})]
    return Check(what, fine=not found, found="; ".join(found) or "is there")


async def _sidecars(api: Api, mesh_name: str) -> list[Check]:
    """Pods that should have a sidecar and run without, and pods whose sidecar lets strangers past the policy."""
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
    every = Check("sidecars", fine=True, found="every pod of the members that wants one has one")
    if bare:
        every = Check("sidecars", fine=False, found=f"{_some(bare)} run without: created before; recreate them")
    closed = Check("probe ports", fine=True, found="let nothing but probes through")
    if opened:
        found = (
            f"of {_some(opened)} let any request of anybody through to the application, past the policy: an older "
            "build injected these pods; restart them"
        )
        closed = Check("probe ports", fine=False, found=found)
    return [every, closed]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(sorted(names)[:_NAMED]) + more


def _wants_sidecar(pod: dict[str, Any], namespace_says: str) -> bool:
    says = (pod["metadata"].get("annotations") or {}).get(ANNOTATION_INJECTION, namespace_says)
    ended = pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}
    return str(says).lower() in {"enabled", "yes", "true"} and not pod["spec"].get("hostNetwork") and not ended


def _has_sidecar(pod: dict[str, Any]) -> bool:
    return any(one["name"] == "envoy" for one in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]])


def _has_open_probe_ports(pod: dict[str, Any]) -> bool:
    """By the proxy's bootstrap: an older build forwarded whatever was below a probe's path."""
    if pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
        return False
    containers: list[dict[str, Any]] = [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]
    arguments = [each for one in containers if one["name"] == "envoy" for each in one.get("args") or []]
    return any('"prefix":"/meshlog/' in str(each) for each in arguments)
