"""May a pod call another one, and is everything there that the call needs? By what Kubernetes knows, step by step.

It reads membership, sidecars, services and policies from the API, so it works on any cluster and needs no access to
the log. What each proxy really holds is the log's to say: `meshlog status`, `meshlog why`.
"""

from __future__ import annotations

from typing import Any

from cli.api import Api
from cli.cluster.health import Check
from shared.model import LABEL_IGNORE, LABEL_MONITORED_BY

_TARGETS = "/apis/access.smi-spec.io/{}/namespaces/{}/traffictargets"
_VERSIONS = ("v1alpha4", "v1alpha3", "v1alpha2", "v1alpha1")


async def verify(api: Api, *, caller: str, called: str, mesh_name: str, mesh_namespace: str) -> list[Check]:
    """Every step of a call from one `namespace/pod` to another; later steps are left out if pods are missing."""
    checks: list[Check] = []
    pods: list[dict[str, Any]] = []
    for place in (caller, called):
        namespace, _, name = place.rpartition("/")
        namespace = namespace or "default"
        checks.append(await _member(api, namespace, mesh_name))
        status, pod = await api.request("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
        if status != 200:
            checks.append(Check(f"pod {place}", fine=False, found="is not there"))
            return checks
        checks += _sidecar(pod)
        pods.append(pod)
    checks.append(await _service(api, pods[1]))
    checks.append(await _allowed(api, pods[0], pods[1], mesh_namespace))
    return checks


async def _member(api: Api, namespace: str, mesh_name: str) -> Check:
    what = f"namespace {namespace}"
    status, one = await api.request("GET", f"/api/v1/namespaces/{namespace}")
    if status != 200:
        return Check(what, fine=False, found="is not there")
    labels: dict[str, str] = one["metadata"].get("labels") or {}
    if LABEL_IGNORE in labels:
        return Check(what, fine=False, found=f"is ignored (label {LABEL_IGNORE})")
    if labels.get(LABEL_MONITORED_BY) != mesh_name:
        return Check(what, fine=False, found=f"is no member of {mesh_name}: `meshlog namespace add {namespace}`")
    return Check(what, fine=True, found=f"is a member of {mesh_name}")


def _sidecar(pod: dict[str, Any]) -> list[Check]:
    spec, place = pod["spec"], f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    if not any(one["name"] == "envoy" for one in containers):
        found = "has no sidecar: it was created before its namespace was a member, or it opted out; recreate it"
        return [Check(f"pod {place}", fine=False, found=found)]
    conditions = {one["type"]: one["status"] for one in pod.get("status", {}).get("conditions", [])}
    ready = conditions.get("Ready") == "True"
    return [
        Check(f"pod {place}", fine=True, found="has a sidecar"),
        Check(f"pod {place}", fine=ready, found="is ready" if ready else "is not ready: nothing is sent to it"),
    ]


async def _service(api: Api, pod: dict[str, Any]) -> Check:
    namespace, labels = pod["metadata"]["namespace"], pod["metadata"].get("labels") or {}
    services = (await api.get(f"/api/v1/namespaces/{namespace}/services"))["items"]
    chosen = [
        one["metadata"]["name"]
        for one in services
        if (selector := one["spec"].get("selector")) and selector.items() <= labels.items()
    ]
    what = f"services of {namespace}/{pod['metadata']['name']}"
    if not chosen:
        return Check(what, fine=False, found="none selects it, so nobody has a route to it")
    return Check(what, fine=True, found=", ".join(chosen))


async def _allowed(api: Api, caller: dict[str, Any], called: dict[str, Any], mesh_namespace: str) -> Check:
    source, destination = _account(caller), _account(called)
    what = f"policy from {'/'.join(source)} to {'/'.join(destination)}"
    path = f"/apis/config.openservicemesh.io/v1alpha2/namespaces/{mesh_namespace}/meshconfigs/osm-mesh-config"
    status, config = await api.request("GET", path)
    if status == 200 and config["spec"].get("traffic", {}).get("enablePermissiveTrafficPolicyMode"):
        return Check(what, fine=True, found="permissive mode: every member may call every member")
    for target in await _traffic_targets(api, destination[0]):
        spec = target.get("spec") or target
        told = spec["destination"]
        if (told.get("namespace") or destination[0], told["name"]) != destination:
            continue
        for one in spec["sources"]:
            if (one.get("namespace") or destination[0], one["name"]) == source:
                rules = ", ".join(
                    f"{rule['kind']} {rule['name']}" for rule in spec.get("rules") or spec.get("specs") or []
                )
                return Check(what, fine=True, found=f"TrafficTarget {target['metadata']['name']}: {rules}")
    return Check(what, fine=False, found="no TrafficTarget allows it, and what none allows is denied")


async def _traffic_targets(api: Api, namespace: str) -> list[dict[str, Any]]:
    for version in _VERSIONS:
        status, listing = await api.request("GET", _TARGETS.format(version, namespace))
        if status == 200:
            return listing["items"]
    return []


def _account(pod: dict[str, Any]) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pod["spec"].get("serviceAccountName") or "default"
