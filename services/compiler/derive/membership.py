"""Members of the mesh: namespaces and pods with a sidecar, and the modes of namespaces."""

from __future__ import annotations

from typing import NamedTuple

from services.compiler.address_claims import ENDED
from services.compiler.engine import query
from services.compiler.mesh_state import MeshState
from shared import membership
from shared.identity.spiffe import InvalidSpiffeIdError, SpiffeId
from shared.names import MESH_CONFIG
from shared.policy.model import MeshConfig
from shared.policy.object_name import ObjectName
from shared.projected_objects import (
    ANNOTATION_CALLS,
    ANNOTATION_PERMISSIVE,
    ANNOTATION_PROXYLESS,
    ANNOTATION_SIDECAR,
    Pod,
)


class MeshPod(NamedTuple):
    """What every query needs of a pod of the mesh."""

    uid: str
    service_account: str
    dual: bool
    """Whether it has an IPv6 address."""


@query
def is_member(mesh: MeshState, namespace: str) -> bool:
    """Whether a namespace belongs to this mesh."""
    found = mesh.namespaces.get(namespace)
    return found is not None and membership.is_member(found.metadata.labels, mesh_name=mesh.settings.mesh_name)


@query
def members(mesh: MeshState) -> tuple[str, ...]:
    """The namespaces of this mesh, sorted."""
    return mesh.namespaces_of_mesh.get(mesh.settings.mesh_name)


@query
def mesh_config(mesh: MeshState) -> MeshConfig:
    """The settings in force; without a MeshConfig the mesh is in SMI mode, default deny."""
    return mesh.mesh_configs.get(ObjectName(mesh.settings.namespace, MESH_CONFIG)) or MeshConfig()


@query
def is_permissive(mesh: MeshState, namespace: str) -> bool:
    """Whether the pods of a namespace take calls from every member: by its own annotation, else by the MeshConfig.

    An annotation that is neither true nor false denies: it may have been meant to.
    """
    found = mesh.namespaces.get(namespace)
    word = None if found is None else found.metadata.annotations.get(ANNOTATION_PERMISSIVE)
    return mesh_config(mesh).permissive if word is None else word.strip().lower() == "true"


@query
def called_namespaces(mesh: MeshState, namespace: str) -> tuple[str, ...] | None:
    """Namespaces whose services may be configured for the pods of a namespace, sorted; `None` means all."""
    found = mesh.namespaces.get(namespace)
    listed = None if found is None else found.metadata.annotations.get(ANNOTATION_CALLS)
    if listed is None:
        return None
    return tuple(sorted({namespace, *(word.strip() for word in listed.split(",") if word.strip())}))


def receives_services_of(mesh: MeshState, namespace: str, of: str) -> bool:
    """Whether services of the namespace `of` may be configured for the pods of a namespace."""
    named = called_namespaces(mesh, namespace)
    return named is None or of in named


@query
def workload(mesh: MeshState, pod: ObjectName) -> MeshPod | None:
    """A pod of the mesh that has a sidecar and has not ended, else none."""
    if not is_member(mesh, pod.namespace):
        return None
    found = mesh.pods.get(pod)
    if found is None or ANNOTATION_SIDECAR not in found.metadata.annotations or found.status.phase in ENDED:
        return None
    return _workload(found)


@query
def proxyless(mesh: MeshState, pod: ObjectName) -> MeshPod | None:
    """A pod of the mesh without a sidecar whose gRPC library speaks xDS itself, and that has not ended, else none."""
    if not is_member(mesh, pod.namespace):
        return None
    found = mesh.pods.get(pod)
    if found is None or ANNOTATION_SIDECAR in found.metadata.annotations or found.status.phase in ENDED:
        return None
    if found.metadata.annotations.get(ANNOTATION_PROXYLESS, "").strip().lower() != "true":
        return None
    return _workload(found)


def _workload(found: Pod) -> MeshPod:
    return MeshPod(
        uid=found.metadata.uid,
        service_account=found.spec.service_account_name or "default",
        dual=":" in found.status.pod_ip or any(":" in address.ip for address in found.status.pod_ips),
    )


@query
def trust_domains(mesh: MeshState) -> tuple[str, ...]:
    """The trust domains that members may be of: more than one while it changes. Sorted.

    Those of every MeshRootCertificate, whatever its role: a certificate of a root that leaves is good until the CA
    drops the root, and of no use afterwards. Without any, the one of the settings.
    """
    found: set[str] = set()
    for name in mesh.roots_of_namespace.get(mesh.settings.namespace):
        root = mesh.roots.get(name)
        domain = root.spec.get("trustDomain") if root is not None else None
        if isinstance(domain, str) and domain:
            found.add(domain)
    return tuple(sorted(found)) or (mesh.settings.trust_domain,)


def spiffe_ids(mesh: MeshState, account: ObjectName) -> tuple[str, ...]:
    """The identities of a service account as they stand in certificates; none if no certificate can carry them."""
    try:
        return tuple(str(SpiffeId(domain, account.namespace, account.name)) for domain in trust_domains(mesh))
    except InvalidSpiffeIdError:
        return ()
