"""Lists the objects of a cluster that Open Service Mesh or SMI reads, as plain objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cli.kubernetes.api_client import Api, Manifest

_KINDS = (
    ("", "v1", "namespaces"),
    ("", "v1", "services"),
    ("", "v1", "pods"),
    ("apps", "v1", "deployments"),
    ("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
)
_CUSTOM = {
    "access.smi-spec.io": ("traffictargets", "identitybindings"),
    "specs.smi-spec.io": ("httproutegroups", "tcproutes", "udproutes"),
    "split.smi-spec.io": ("trafficsplits",),
    "policy.openservicemesh.io": (
        "egresses",
        "ingressbackends",
        "retries",
        "upstreamtrafficsettings",
        "telemetries",
    ),
    "config.openservicemesh.io": ("meshconfigs", "meshrootcertificates", "extensionservices"),
}


async def read(api: Api) -> list[Manifest]:
    """List everything, once; a kind that the cluster does not have has no objects. Raises `ApiRefusedError`."""
    found: list[Manifest] = []
    for group, version, plural in _KINDS:
        found += await listed(api, f"/apis/{group}/{version}" if group else f"/api/{version}", plural)
    for group, plurals in _CUSTOM.items():
        found += await custom(api, group, plurals)
    return found


async def custom(api: Api, group: str, plurals: Sequence[str]) -> list[Manifest]:
    """The objects of some resources of a group, in any version that the cluster serves; empty if it serves none."""
    status, served = await api.request("GET", f"/apis/{group}")
    if status != 200:
        return []
    versions = [one["version"] for one in served["versions"]]
    return [one for plural in plurals for one in await _custom(api, group, versions, plural)]


async def _custom(api: Api, group: str, versions: list[str], plural: str) -> list[Manifest]:
    for version in versions:
        status, resources = await api.request("GET", f"/apis/{group}/{version}")
        if status == 200 and any(one["name"] == plural for one in resources["resources"]):
            return await listed(api, f"/apis/{group}/{version}", plural)
    return []


async def listed(api: Api, root: str, plural: str) -> list[Manifest]:
    """Every object of one resource, page by page. Raises `ApiRefusedError`."""
    found: list[Manifest] = []
    params = {"limit": "500"}
    while True:
        listing: dict[str, Any] = await api.get(f"{root}/{plural}", params=params)
        kind = listing["kind"].removesuffix("List")
        # Items of a list have no kind of their own.
        found += [{"apiVersion": listing["apiVersion"], "kind": kind, **one} for one in listing["items"]]
        token = listing["metadata"].get("continue")
        if not token:
            return found
        params = {"limit": "500", "continue": token}
