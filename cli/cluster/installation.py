"""Install, upgrade and uninstall: applies the objects of `deploy.install` to a cluster, and deletes them.

An upgrade applies the objects of the new build and deletes those that it no longer has. The passwords and certificates
of the log and the MeshConfig, which belongs to its users, are kept; a missing one is created. Objects are found by
their labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from cli.cluster.namespace_membership import remove
from cli.kubernetes.api_client import Api, Manifest
from cli.kubernetes.manifest_files import id_of
from deploy.install.control_plane import control_plane
from deploy.install.mesh_config import mesh_config
from deploy.install.profile import Profile
from deploy.install.secrets import log_secrets
from shared.errors import BadInputError
from shared.membership import is_member, naming_selector
from shared.names import CA_SECRET, MESH_CONFIG

CRDS = Path(__file__).parents[2] / "deploy" / "crds"
Progress = Callable[[str], None]

_OURS = (
    "apis/apps/v1/deployments",
    "apis/apps/v1/statefulsets",
    "api/v1/services",
    "api/v1/configmaps",
    "api/v1/serviceaccounts",
    "apis/policy/v1/poddisruptionbudgets",
    "apis/autoscaling/v2/horizontalpodautoscalers",
    "apis/networking.k8s.io/v1/networkpolicies",
    "apis/rbac.authorization.k8s.io/v1/roles",
    "apis/rbac.authorization.k8s.io/v1/rolebindings",
    "apis/rbac.authorization.k8s.io/v1/clusterroles",
    "apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    "apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
)
_SECRETS = ("api/v1/secrets",)


def definitions() -> list[Manifest]:
    """The CustomResourceDefinitions."""
    return [one for path in sorted(CRDS.glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())]


async def has_mesh_config(api: Api, namespace: str) -> bool:
    """Whether the mesh has its MeshConfig; raises `ApiRefusedError` if the API does not answer."""
    listing = await api.get(f"/apis/config.openservicemesh.io/v1alpha2/namespaces/{namespace}/meshconfigs")
    return any(one["metadata"]["name"] == MESH_CONFIG for one in listing["items"])


def rendered(profile: Profile, *, permissive: bool, crds: bool = True, secrets: bool = True) -> list[Manifest]:
    """Every object of a new installation, in the order to apply."""
    first, *rest = control_plane(profile)
    made = [*(definitions() if crds else []), first]
    made += log_secrets(profile) if secrets else []
    return [*made, *rest, mesh_config(profile, permissive=permissive)]


async def suited(api: Api, profile: Profile) -> Profile:
    """The profile without features that this cluster lacks: native sidecars came with Kubernetes 1.29."""
    version = await api.get("/version")
    parsed = re.fullmatch(r"(\d+)\.(\d+)\+?", f"{version.get('major', '')}.{version.get('minor', '')}")
    if parsed is None or (int(parsed[1]), int(parsed[2])) >= (1, 29):
        return profile
    return msgspec.structs.replace(profile, native_sidecars=False)


async def install(api: Api, profile: Profile, *, permissive: bool, single: bool, progress: Progress) -> None:
    """Install into a cluster; raises `BadInputError` if there is a mesh of that name, or (`single`) any mesh."""
    for other in await meshes(api):
        same = other["name"] == profile.mesh_name
        if same or single:
            way = "`meshlog upgrade` changes it" if same else "`--enforce-single-mesh false` allows another beside it"
            raise BadInputError(
                "install/mesh", f"there is the mesh {other['name']!r} in {other['namespace']} already; {way}"
            )
    await _apply(api, rendered(await suited(api, profile), permissive=permissive), progress)


async def upgrade(api: Api, profile: Profile, *, progress: Progress) -> list[str]:
    """Upgrade to this build and these settings; returns the names of the objects that were deleted as unneeded."""
    if profile.mesh_name not in {one["name"] for one in await meshes(api)}:
        raise BadInputError("upgrade/mesh", f"there is no mesh {profile.mesh_name!r}; `meshlog install` makes one")
    profile = await suited(api, profile)
    held = {one["metadata"]["name"] for one in await _labelled(api, _SECRETS, profile.mesh_name)}
    wanted = rendered(profile, permissive=False, secrets=False)[:-1]
    fresh = [one for one in log_secrets(profile) if one["metadata"]["name"] not in held]
    if fresh and held:
        # Only some of the Secrets cannot work: servers and services must have the same passwords.
        fresh = log_secrets(profile)
    await _apply(api, [*wanted[: len(definitions()) + 1], *fresh, *wanted[len(definitions()) + 1 :]], progress)
    if not await has_mesh_config(api, profile.namespace):
        await _apply(api, [mesh_config(profile, permissive=False)], progress)
    keep = {id_of(one) for one in wanted}
    gone: list[str] = []
    for one in await _labelled(api, _OURS, profile.mesh_name):
        if id_of(one) not in keep and not _made_by_others(one):
            await api.delete(one)
            gone.append(f"{one['kind']} {one['metadata']['name']}")
    return gone


async def uninstall(
    api: Api, mesh_name: str, *, namespace: str, everything: bool, delete_namespace: bool, progress: Progress
) -> None:
    """Uninstall from a cluster. Running sidecars keep their configuration until their pods are restarted."""
    # The webhook first: without an injector it would refuse every pod of the member namespaces.
    hooks = [path for path in _OURS if "webhook" in path]
    await _delete(api, await _labelled(api, hooks, mesh_name), progress)
    listing = await api.get("/api/v1/namespaces", params={"labelSelector": naming_selector(mesh_name)})
    for member in listing["items"]:
        progress(f"namespace {member['metadata']['name']} leaves the mesh")
        await remove(api, member["metadata"]["name"], mesh_name)
    await _delete(api, await _labelled(api, (*_OURS, *_SECRETS), mesh_name), progress)
    if everything:
        keys = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": CA_SECRET, "namespace": namespace}}
        await _delete(api, [keys, *definitions()], progress)
    if delete_namespace:
        await _delete(api, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}], progress)


async def meshes(api: Api) -> list[dict[str, Any]]:
    """Every mesh of the cluster: name, namespace, version and member namespaces."""
    found: list[dict[str, Any]] = []
    selector = {"labelSelector": "app.kubernetes.io/part-of=meshlog,app.kubernetes.io/name=meshlog-compiler"}
    for one in (await api.get("/apis/apps/v1/deployments", params=selector))["items"]:
        name = one["metadata"]["labels"].get("app.kubernetes.io/instance", "")
        image = one["spec"]["template"]["spec"]["containers"][0].get("image", "")
        query = {"labelSelector": naming_selector(name)}
        listed = [each["metadata"] for each in (await api.get("/api/v1/namespaces", params=query))["items"]]
        members = [each["name"] for each in listed if is_member(each.get("labels") or {}, mesh_name=name)]
        version = image.rpartition(":")[2] if ":" in image.rpartition("/")[2] else "unknown"
        namespace = one["metadata"]["namespace"]
        found.append({"name": name, "namespace": namespace, "version": version, "namespaces": sorted(members)})
    return found


async def available(api: Api, namespace: str, *, within: float, progress: Progress) -> None:
    """Wait until every Deployment and StatefulSet of the control plane is ready; raises `ApiRefusedError`."""
    selector = {"labelSelector": "app.kubernetes.io/part-of=meshlog"}
    for plural in ("statefulsets", "deployments"):
        root = f"/apis/apps/v1/namespaces/{namespace}/{plural}"
        for one in (await api.get(root, params=selector))["items"]:
            name = one["metadata"]["name"]
            progress(f"waiting for {name}")
            await api.wait(
                f"{root}/{name}",
                lambda each: each.get("status", {}).get("readyReplicas", 0) >= each["spec"].get("replicas", 1),
                within=within,
                what=f"{name} is not ready; `kubectl -n {namespace} describe pods` says more",
            )


async def _apply(api: Api, manifests: Sequence[Manifest], progress: Progress) -> None:
    for one in manifests:
        await api.apply(one)
        progress(f"{one['kind']} {one['metadata']['name']}")


async def _labelled(api: Api, collections: Sequence[str], mesh_name: str) -> list[Manifest]:
    selector = {"labelSelector": f"app.kubernetes.io/part-of=meshlog,app.kubernetes.io/instance={mesh_name}"}
    found: list[Manifest] = []
    for path in collections:
        listing = await api.get(f"/{path}", params=selector)
        kind = listing["kind"].removesuffix("List")
        found += [{**one, "apiVersion": listing["apiVersion"], "kind": kind} for one in listing["items"]]
    return found


async def _delete(api: Api, manifests: Sequence[Manifest], progress: Progress) -> None:
    for one in manifests:
        await api.delete(one)
        progress(f"{one['kind']} {one['metadata']['name']} deleted")


def _made_by_others(one: Manifest) -> bool:
    return bool(one["metadata"].get("ownerReferences"))
